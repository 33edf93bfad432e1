"""What must hold of canonical events, staged or published.

What a valid event is comes from nextbuy/events.py. Ingestion and the service refuse other events
one by one, so the checks of single rows are for what reaches the table without them: a file written
by other means, a damaged one, or a fault of our own. Checks of the whole batch follow below.
"""

from datetime import datetime

from monitoring.config import EventBounds
from monitoring.rules import (
    Check,
    Scope,
    present,
    query_check,
    row_check,
    schema_types,
    shape_checks,
    unique,
    whole_table,
)
from nextbuy.events import (
    EVENT_SCHEMA,
    MAX_CENTS,
    MAX_TEXT,
    MONEY_COLUMNS,
    NOT_IN_TEXT,
    REQUIRED,
    TEXT_COLUMNS,
    TIME_LIMITS,
    WITHOUT_ITEM,
    EventType,
)
from nextbuy.log_span import STRAY_REMEDY
from nextbuy.times import DAY

DAYS_NEAR = 7
"""Days within two weeks of a day, itself among them, that its volume is compared with at least."""


def event_checks(
    now: datetime, bounds: EventBounds, max_shoppers: int, end: datetime | None = None
) -> list[Check]:
    """The suite of the events.

    Args:
        now: later times are in the future.
        bounds: of whole batches.
        max_shoppers: of a shop session (`nextbuy.tables.sessions.SessionConfig`).
        end: of the log (`nextbuy.log_span`); None where the events are a part of a log.
    """
    latest = now + TIME_LIMITS.max_ahead
    known = ", ".join(f"'{kind}'" for kind in EventType)
    return [
        *shape_checks(schema_types(EVENT_SCHEMA)),
        *(
            present(
                name,
                f"Map {name} in the source file, or correct it at its source.",
                is_text=name != "event_time",
            )
            for name in ("event_id", *REQUIRED)
        ),
        unique("event_id", "Leave fields.event_id out of the source file to have ids derived."),
        row_check(
            "event_type_known",
            "event_type",
            f"event_type NOT IN ({known})",
            "Map the name under event_types in the source file, or list it under ignored.",
        ),
        row_check(
            "event_time_plausible",
            "event_time",
            f"event_time < TIMESTAMPTZ '{TIME_LIMITS.earliest.isoformat()}' "
            f"OR event_time > TIMESTAMPTZ '{latest.isoformat()}'",
            "Correct time.format or time.zone in the source file.",
        ),
        row_check(
            "item_present",
            ("event_type", "item_id"),
            f"(item_id IS NULL OR item_id = '') AND event_type <> '{WITHOUT_ITEM}'",
            "Only a login goes without an item: map item_id, or ignore that event name.",
        ),
        *(
            row_check(
                f"{money}_plausible",
                money,
                f"{money} < 0 OR {money} > {MAX_CENTS}",
                f"{money.title()} is whole cents and not below 0; correct its mapping.",
            )
            for money in MONEY_COLUMNS
        ),
        row_check(
            "text_bounded",
            TEXT_COLUMNS,
            " OR ".join(f"length({name}) > {MAX_TEXT}" for name in TEXT_COLUMNS),
            f"At most {MAX_TEXT} characters; shorten it by an sql expression in the source file.",
        ),
        row_check(
            "text_printable",
            TEXT_COLUMNS,
            f"regexp_matches(concat({', '.join(TEXT_COLUMNS)}), '{NOT_IN_TEXT}')",
            "A control character or a line separator. Ingest the log again: such rows go to "
            "quarantine.",
        ),
        row_check(
            "purchase_priced",
            ("event_type", "price"),
            f"event_type = '{EventType.PURCHASE}' AND price = 0",
            "Purchases for nothing: check how price is mapped.",
            severity="warn",
            tolerance=0.01,
        ),
        *_batch_checks(bounds, end, max_shoppers),
        *([_no_strays(end)] if end else []),
    ]


def _no_strays(end: datetime) -> Check:
    return query_check(
        "no_strays",
        "event_time",
        "SELECT event_id, user_id, event_time FROM {batch} "
        f"WHERE event_time > TIMESTAMPTZ '{end.isoformat()}' ORDER BY event_time, event_id",
        f"The log ends at {end:%Y-%m-%d %H:%M} UTC. {STRAY_REMEDY}",
        "warn",
    )


def _batch_checks(bounds: EventBounds, end: datetime | None, max_shoppers: int) -> list[Check]:
    """What no single row can break; a warning, because a shop may be like that."""
    limits = ", ".join(f"('{k.value}', {low}, {high})" for k, (low, high) in bounds.shares.items())
    number = f"epoch_us(event_time) // {DAY}"  # four times as fast as a cast to DATE
    day = f"make_timestamp(number * {DAY})::DATE AS day"
    until = f"WHERE event_time <= TIMESTAMPTZ '{end.isoformat()}' " if end else ""
    days = (
        f"WITH days AS (SELECT {day}, n FROM "
        f"(SELECT {number} AS number, count(*) AS n FROM {{batch}} {until}GROUP BY 1)), "
        "typical AS (SELECT median(n) AS median, min(day) AS first, max(day) AS last FROM days)"
    )
    # Compared with its own month: the first days of a shop that grew are no error.
    near = (
        f"{days}, judged AS (SELECT day, n, median(n) OVER near AS near_median, "
        "count(*) OVER near AS n_days FROM days WINDOW near AS (ORDER BY day "
        "RANGE BETWEEN INTERVAL 14 DAY PRECEDING AND INTERVAL 14 DAY FOLLOWING)), "
        # The first and the last day are seldom whole.
        "whole AS (SELECT judged.* FROM judged CROSS JOIN typical WHERE day > first AND day < last)"
    )
    is_compared = f"n_days >= {DAYS_NEAR} AND near_median >= {bounds.min_rows}"
    too_few = (
        "format('{:,} events a day at the median, "
        f"it takes {bounds.min_rows:,}', CAST(max(typical.median) AS BIGINT))"
    )
    busy_days = Scope(
        f"{days} SELECT count(*) FILTER (n >= {bounds.min_rows}), count(*), "
        f"format('{{:,}} events on the largest day, it takes {bounds.min_rows:,}', max(n)) "
        "FROM days",
        "days",
    )
    return [
        query_check(
            "event_mix",
            "event_type",
            "SELECT kind AS event_type, coalesce(n, 0) / total AS share, low, high "
            f"FROM (VALUES {limits}) AS bounds(kind, low, high) "
            "LEFT JOIN (SELECT event_type, count(*) AS n FROM {batch} GROUP BY event_type) "
            "ON kind = event_type CROSS JOIN (SELECT count(*) AS total FROM {batch}) "
            f"WHERE total >= {bounds.min_rows} AND share NOT BETWEEN low AND high",
            "Compare event_types in the source file with the names in the log.",
            "warn",
            whole_table("count(*)", bounds.min_rows, "events"),
        ),
        query_check(
            "day_volume",
            "event_time",
            f"{near} SELECT day, n, near_median AS median FROM whole WHERE {is_compared} "
            f"AND (n * {bounds.volume_factor} < near_median "
            f"OR n > near_median * {bounds.volume_factor})",
            "Look for a day that was delivered in part, or twice.",
            "warn",
            Scope(
                f"{near} SELECT count(*) FILTER ({is_compared}), count(day), "
                f"CASE WHEN max(typical.median) >= {bounds.min_rows} "
                f"THEN format('{{}} whole days, it takes {DAYS_NEAR - 1} beside each', count(day)) "
                f"ELSE {too_few} END FROM typical LEFT JOIN whole ON true",
                "days",
            ),
        ),
        query_check(
            "days_complete",
            "event_time",
            f"{days} SELECT day + 1 AS missing_from, following - day - 1 AS n_missing FROM "
            "(SELECT day, lead(day) OVER (ORDER BY day) AS following FROM days) "
            f"CROSS JOIN typical WHERE following > day + 1 AND median >= {bounds.min_rows}",
            "Days without any event: ingest what is missing.",
            "warn",
            Scope(
                f"{days} SELECT CAST(max(median) >= {bounds.min_rows} AS INTEGER), 1, {too_few} "
                "FROM typical",
                "tables",
            ),
        ),
        query_check(
            "events_not_repeated",
            ("event_time", "user_id", "event_type", "item_id"),
            f"SELECT {day}, n, different FROM (SELECT {number} AS number, count(*) AS n, "
            "approx_count_distinct(hash(user_id, event_time, event_type, item_id)) AS different "
            "FROM {batch} GROUP BY 1) "
            f"WHERE n >= {bounds.min_rows} AND different < n * {1 - bounds.repeated_share}",
            "The same events came under other ids: was a day delivered twice?",
            "warn",
            busy_days,
        ),
        query_check(
            "no_dominant_user",
            ("event_time", "user_id"),
            # Counting all users of all days costs fifteen times as much as looking at each day's
            # most frequent one.
            f"WITH top AS (SELECT {number} AS number, count(*) AS total, "
            "unnest(approx_top_k(user_id, 1)) AS user_id FROM {batch} GROUP BY 1), "
            "counted AS (SELECT number, user_id, any_value(total) AS total, count(*) AS n "
            f"FROM top JOIN (SELECT user_id, {number} AS number FROM {{batch}}) "
            "USING (number, user_id) GROUP BY number, user_id) "
            f"SELECT {day}, user_id, n, total FROM counted "
            f"WHERE total >= {bounds.min_rows} AND n > total * {bounds.one_user_share}",
            "One user has a large part of a day: a crawler, or an id that stands for nobody.",
            "warn",
            busy_days,
        ),
        query_check(
            "shop_sessions_are_single",
            ("source_session_id", "user_id", "event_type"),
            # Only a log-in makes anything of a shared shop session.
            "SELECT source_session_id, count(DISTINCT user_id) AS shoppers FROM {batch} "
            "SEMI JOIN (SELECT source_session_id FROM {batch} WHERE event_type = "
            f"'{EventType.LOGIN}') USING (source_session_id) GROUP BY source_session_id "
            f"HAVING shoppers > {max_shoppers} ORDER BY shoppers DESC, source_session_id",
            f"More than {max_shoppers} shoppers (sessions: max_shoppers) share a shop session's "
            "id, so that log-ins there link nobody. Is it a placeholder, such as 0 or null? Leave "
            "the field empty then.",
            "warn",
        ),
    ]
