"""What must hold of labels."""

from monitoring.rules import (
    Check,
    one_row_per,
    present,
    query_check,
    row_check,
    shape_checks,
    whole_table,
)

REBUILD = "Build the labels again with the current code: nextbuy sessionize"
STAMP = "TIMESTAMP WITH TIME ZONE"
MIN_LABELS = 1000
"""With fewer the share of purchases is left to chance."""


def label_checks(is_known: str, horizon_days: int) -> list[Check]:
    """The suite of `labels/`; `is_known` is `nextbuy.tables.labels.known_sql` of their log."""
    types = {
        "user_id": "VARCHAR",
        "item_id": "VARCHAR",
        "session_id": "VARCHAR",
        "category": "VARCHAR",
        "event_timestamp": STAMP,
        "next_session_start": STAMP,
        "known_at": STAMP,
        "label": "TINYINT",
    }
    return [
        *shape_checks(types),
        *(present(name, REBUILD) for name in ("user_id", "item_id", "session_id")),
        row_check("label_is_0_or_1", "label", "label NOT IN (0, 1)", REBUILD),
        row_check(
            "next_session_later",
            ("event_timestamp", "next_session_start"),
            "next_session_start <= event_timestamp",
            REBUILD,
        ),
        row_check(
            "known_after",
            ("event_timestamp", "known_at"),
            "known_at IS NULL OR known_at <= event_timestamp",
            REBUILD,
        ),
        row_check(
            "matured_or_open",
            ("known_at", "label"),
            f"(label IS NULL) = {is_known}",
            "A label is there exactly when it is known. " + REBUILD,
        ),
        row_check(
            "bought_in_a_session_that_came",
            ("label", "event_timestamp", "next_session_start"),
            "label = 1 AND (next_session_start IS NULL OR next_session_start > "
            f"event_timestamp + INTERVAL {horizon_days} DAY)",
            REBUILD,
        ),
        one_row_per(("user_id", "item_id", "event_timestamp"), REBUILD),
        query_check(
            "base_rate",
            "label",
            "SELECT * FROM (SELECT avg(label) AS share, count(label) AS n FROM {batch}) "
            f"WHERE n >= {MIN_LABELS} AND share NOT BETWEEN 0.0002 AND 0.5",
            "Few purchases, or too many: compare event_types in the source file with the log.",
            "warn",
            whole_table("count(label)", MIN_LABELS, "known labels"),
        ),
    ]
