"""What must hold of events with their session."""

from monitoring.rules import (
    Check,
    one_row_per,
    present,
    query_check,
    row_check,
    rows_exactly,
    schema_types,
    shape_checks,
)
from nextbuy.events import EVENT_SCHEMA
from nextbuy.shop import SessionConfig

REBUILD = "Build the sessions again with the current code: nextbuy sessionize"


def session_checks(config: SessionConfig, n_events: int) -> list[Check]:
    """The suite of `sessions/`, made with `config` from `n_events` events."""
    types = schema_types(EVENT_SCHEMA) | {
        "session_id": "VARCHAR",
        "session_start": "TIMESTAMP WITH TIME ZONE",
        "event_number": "BIGINT",
        "is_bot": "BOOLEAN",
    }
    return [
        *shape_checks(types),
        rows_exactly(n_events, "The sessions were cut from other events; run: nextbuy sessionize"),
        present("session_id", REBUILD),
        row_check("bot_known", "is_bot", "is_bot IS NULL", REBUILD),
        row_check(
            "starts_before",
            ("session_start", "event_time"),
            "session_start IS NULL OR session_start > event_time",
            REBUILD,
        ),
        row_check(
            "within_gap",
            ("session_start", "event_time", "event_number"),
            # n events hold n - 1 pauses, none of which is longer than the gap.
            "epoch_us(event_time) - epoch_us(session_start) > "
            f"(event_number - 1) * {config.gap_us}",
            REBUILD,
        ),
        one_row_per(("session_id", "event_number"), REBUILD),
        query_check(
            "few_bots",
            "is_bot",
            "SELECT * FROM (SELECT avg(CAST(is_bot AS INTEGER)) AS share FROM {batch}) "
            "WHERE share > 0.5",
            "More than half of the events count as a bot's: look at the bot rules (SessionConfig).",
            "warn",
        ),
    ]
