"""What must hold of labels."""

from datetime import datetime

from monitoring.rules import Rule, one_row_per, present, query_rule, row_rule, shape_rules

REBUILD = "Build the labels again with the current code: nextbuy sessionize"
STAMP = "TIMESTAMP WITH TIME ZONE"


def label_rules(newest: datetime, horizon_days: int) -> list[Rule]:
    """The suite of `labels/`; `newest` is the time of the newest event they were made from."""
    until = f"TIMESTAMPTZ '{newest.isoformat()}'"
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
        *shape_rules(types),
        *(present(name, REBUILD) for name in ("user_id", "item_id", "session_id")),
        row_rule("label_is_0_or_1", "label", "label NOT IN (0, 1)", REBUILD),
        row_rule(
            "next_session_later",
            ("event_timestamp", "next_session_start"),
            "next_session_start <= event_timestamp",
            REBUILD,
        ),
        row_rule(
            "known_after",
            ("event_timestamp", "known_at"),
            "known_at IS NULL OR known_at <= event_timestamp",
            REBUILD,
        ),
        row_rule(
            "ripe_or_open",
            ("known_at", "label"),
            f"(label IS NULL) <> (known_at > {until})",
            "A label is there exactly when it is known. " + REBUILD,
        ),
        row_rule(
            "bought_in_a_session_that_came",
            ("label", "event_timestamp", "next_session_start"),
            "label = 1 AND (next_session_start IS NULL OR next_session_start > "
            f"event_timestamp + INTERVAL {horizon_days} DAY)",
            REBUILD,
        ),
        one_row_per(("user_id", "item_id", "event_timestamp"), REBUILD),
        query_rule(
            "base_rate",
            "label",
            "SELECT * FROM (SELECT avg(label) AS share, count(label) AS n FROM {batch}) "
            "WHERE n >= 1000 AND share NOT BETWEEN 0.0002 AND 0.5",
            "Few purchases, or too many: compare event_types in the source file with the log.",
            "warn",
        ),
    ]
