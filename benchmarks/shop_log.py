"""Canonical events of any number, made by one query: heavy-tailed shoppers and items, log-ins.

Published as ingestion would, so that every verb after it runs on them.
"""

from pathlib import Path

from nextbuy.connection import duckdb_connection
from nextbuy.events import EVENT_ORDER, EVENT_SCHEMA, EventType
from nextbuy.settings import Settings
from nextbuy.versioned_table import new_version

DAYS = 120
PER_SESSION = 8
"""Events a session has on average; a shopper has forty in all, an item two hundred."""

INFO = {
    "source": "benchmark",
    "mapping": "benchmark",
    "provides": sorted({*EventType, *EVENT_SCHEMA.names[5:]}),
}


def publish(
    settings: Settings, events: int, span: int = DAYS, days: int | None = None, late: int = 0
) -> None:
    """Write `events/`: the first `days` (default: all) of about `events` events over `span`.

    `late` thousandths of those in the last eight days are held back, which is how a second call
    with the same numbers and `late=0` brings late events.
    """
    days = span if days is None else days
    shoppers, items = max(events // 40, 10), max(events // 200, 20)
    held = f"(day >= {days - 8} AND hash(i * 101) % 1000 < {late})" if late else "false"
    with (
        duckdb_connection(settings) as connection,
        new_version(settings.events, "benchmark", INFO) as new,
    ):
        connection.execute("SET preserve_insertion_order = false")
        connection.execute(
            f"""CREATE VIEW log AS
            WITH visits AS (
                SELECT v,
                    -- the square of an even draw: a few shoppers come very often
                    CAST(floor({shoppers} * pow(hash(v * 3 + 1) % 1000003 / 1000003.0, 2)) AS INT)
                        AS shopper,
                    CAST(hash(v * 5 + 2) % ({span}::UBIGINT * 86400) AS BIGINT) AS start_s,
                    CAST(1 + hash(v * 7 + 3) % {2 * PER_SESSION - 1} AS INT) AS size,
                    hash(v * 11 + 4) % 50 = 0 AS comes_as_guest
                FROM range({events // PER_SESSION}) t(v)),
            steps AS (
                SELECT v, shopper, size, comes_as_guest, n, v * {2 * PER_SESSION} + n AS i,
                    start_s + n * (20 + hash(v) % 60)::BIGINT AS s,
                    hash(v * 131 + n * 17) AS draw,
                    CAST(floor({items} * pow(hash(v * 13 + n // 2) % 1000003 / 1000003.0, 2))
                        AS BIGINT) AS item
                FROM visits, LATERAL (SELECT unnest(range(size)) AS n))
            SELECT i, s // 86400 AS day,
                'e' || i AS event_id,
                CASE WHEN comes_as_guest AND n < size - 1 THEN 'guest' || v
                    ELSE 'u' || shopper END AS user_id,
                make_timestamptz((1704067200 + s) * 1000000 + (draw % 1000000)::BIGINT)
                    AS event_time,
                CASE WHEN comes_as_guest AND n = size - 1 THEN 'login'
                    WHEN draw % 100 < 70 THEN 'view' WHEN draw % 100 < 85 THEN 'scroll'
                    WHEN draw % 100 < 94 THEN 'add_to_cart'
                    WHEN draw % 100 < 96 THEN 'remove_from_cart' ELSE 'purchase' END AS event_type,
                CASE WHEN NOT (comes_as_guest AND n = size - 1) THEN 'i' || item END AS item_id,
                CASE WHEN item_id IS NOT NULL THEN 'c' || item % 300 END AS category,
                CASE WHEN item_id IS NOT NULL THEN 'b' || item % 1000 END AS brand,
                CASE WHEN item_id IS NOT NULL THEN 500 + (hash(item) % 20000)::BIGINT END AS price,
                CASE WHEN item_id IS NOT NULL AND draw % 7 = 0 THEN 100 ELSE 0 END AS discount,
                's' || v AS source_session_id
            FROM steps WHERE s < {days * 86_400}"""
        )
        connection.execute(
            f"CREATE TABLE kept AS SELECT {', '.join(EVENT_SCHEMA.names)} FROM log WHERE NOT {held}"
        )
        new.write_days(connection, "kept", "event_time", EVENT_ORDER)


def events_file(settings: Settings, target: Path) -> None:
    """The published events as one file in no useful order, for contenders that read a file."""
    from nextbuy.versioned_table import files

    with duckdb_connection(settings) as connection:
        connection.execute(
            f"COPY (SELECT * FROM read_parquet('{files(settings.events)}', "
            f"hive_partitioning = false) ORDER BY hash(event_id)) TO '{target}' (FORMAT parquet)"
        )
