"""A source's declarations as SQL: from the log's text to canonical columns."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import duckdb

from nextbuy.errors import NextbuyError
from nextbuy.events import EVENT_SCHEMA, MAX_CENTS, NOT_IN_TEXT, SHOPPER_COLUMNS
from nextbuy.ingest.iso_time import iso_moments
from nextbuy.ingest.lines import Progress
from nextbuy.ingest.log_reader import open_rows
from nextbuy.ingest.row_rules import is_placeholder, row_rules
from nextbuy.ingest.rows import LogRows
from nextbuy.ingest.source import ColumnSpec, Expression, ItemTable, Source, TimeFormat
from nextbuy.shop import UTC_ZONE
from nextbuy.shop_clock import shop_clock
from nextbuy.sql import literal
from nextbuy.times import END_OF_TIME_US, to_us

HASHED = (
    "user_id",
    "_us",
    "_kind",
    "item_id",
    "category",
    "brand",
    "_price_cents",
    "_discount_cents",
    "source_session_id",
)


def map_and_validate(source: Source, rows: LogRows, now: datetime) -> str:
    """The query that maps and validates a log: one row for every row of the log.

    Its columns: `file`, `row`; `reason`, `column`, `value` and `raw` of a refused row; `ignored`,
    the name of an ignored event; `no_session`, what an event has for a session id that is none; and
    the canonical columns, NULL in rows that are no events but for the shopper of a refused row. A
    time in an hour that the clock repeats is taken to be in the second; `first_time` and `first_id`
    are then the event's time and id if it was in the first.
    """
    rules = row_rules(source)
    texts = ", ".join(f"{_text(source, rows, name)} AS _{name}" for name in EVENT_SCHEMA.names)
    kinds = " ".join(
        f"WHEN {literal(theirs)} THEN {literal(ours)}"
        for theirs, ours in source.event_types.items()
    )
    ignored = ", ".join(map(literal, source.ignored)) or "NULL"
    now_us = to_us(now)
    reasons = ", ".join(literal(rule.reason) for rule in rules)
    labels = ", ".join(
        literal(source.label(rule.column)) if rule.column else "NULL" for rule in rules
    )
    values = " ".join(
        f"WHEN {i} THEN _{rule.column}" for i, rule in enumerate(rules, 1) if rule.column
    )
    cases = " ".join(f"WHEN {rule.condition} THEN {i}" for i, rule in enumerate(rules, 1))
    no_session = is_placeholder("_source_session_id", source)
    columns = {
        "event_id": "_event_id" if "event_id" in source.fields else derived_id(),
        "user_id": "_user_id",
        "event_time": "make_timestamptz(_us)",
        "event_type": "_kind",
        "item_id": "_item_id",
        "category": "_category",
        "brand": "_brand",
        "price": "nullif(_price_cents, 0)" if source.zero_price_is_unknown else "_price_cents",
        "discount": "_discount_cents",
        "source_session_id": f"CASE WHEN NOT {no_session} THEN _source_session_id END",
        "first_time": "CASE WHEN _repeated_us > 0 THEN make_timestamptz(_us - _repeated_us) END",
        "first_id": "CASE WHEN _repeated_us > 0 THEN "
        f"{'_event_id' if 'event_id' in source.fields else derived_id('_us - _repeated_us')} END",
    }
    is_event = "_rule IS NULL AND _ignored IS NULL"
    # A refused row that can be read keeps whose it is: an erasure must find it.
    is_readable = "_broken IS NULL AND _ignored IS NULL"
    clock = shop_clock(source.time.zone)
    absolute_us, local_us = moments("_event_time", source.time)
    # What is too far off for an offset to be added is refused all the same. (`least` skips a NULL.)
    in_reach = f"least(greatest({local_us}, {-END_OF_TIME_US}), {END_OF_TIME_US})"
    local_us = f"CASE WHEN {local_us} IS NOT NULL THEN {in_reach} END"
    events = ", ".join(
        f"CASE WHEN {is_readable if name in SHOPPER_COLUMNS else is_event} THEN {sql} END AS {name}"
        for name, sql in columns.items()
    )
    return f"""
        WITH picked AS (
            SELECT _file, _row, _broken, {rows.carried}, {texts} FROM {rows.relation}
        ), typed AS (
            SELECT *, {now_us} AS _now_us, CASE _event_type {kinds} END AS _kind,
                CASE WHEN _broken IS NULL AND _event_type IN ({ignored}) THEN _event_type END
                    AS _ignored,
                {absolute_us} AS _absolute_us, {local_us} AS _local_us,
                {cents("_price", source)} AS _price_cents,
                {cents("_discount", source)} AS _discount_cents
            FROM picked
        ), timed AS (
            SELECT *, {clock.repeated_sql("_local_us")} AS _repeated_us,
                {clock.skipped_sql("_local_us")} AS _skipped_us,
                coalesce(_absolute_us, {clock.utc_sql("_local_us")}) AS _us
            FROM typed
        ), ruled AS (
            SELECT *, CASE WHEN _ignored IS NOT NULL THEN NULL {cases} END AS _rule FROM timed
        )
        SELECT _file AS file, _row AS row,
            CASE WHEN _rule IS NOT NULL THEN [{reasons}][_rule] END AS reason,
            CASE WHEN _rule IS NOT NULL THEN [{labels}][_rule] END AS "column",
            CASE _rule {values} END AS value,
            CASE WHEN _rule IS NOT NULL THEN CAST({rows.raw} AS VARCHAR) END AS raw,
            _ignored AS ignored,
            CASE WHEN _rule IS NULL AND _ignored IS NULL AND {no_session}
                THEN _source_session_id END AS no_session, {events}
        FROM ruled"""


def derived_id(us: str = "_us") -> str:
    """MD5 over what the log says of the event, `us` its time; equal rows are one event.

    Each value is preceded by its length and a NULL is a dash, so different rows give different
    texts. What an item table adds is left out: a better table makes no new events.
    """
    named = (name if name.startswith("_") else f"_{name}" for name in HASHED)
    names = [f"({us})" if name == "_us" else name for name in named]
    parts = (f"coalesce(strlen({name}::VARCHAR) || ':' || {name}::VARCHAR, '-')" for name in names)
    return f"md5({' || '.join(parts)})"


def moments(text: str, time: TimeFormat) -> tuple[str, str]:
    """What `text` says: microseconds since 1970 UTC, or what the clock of the zone showed.

    One of the two is NULL, both where `text` is no time.
    """
    nothing = "CAST(NULL AS BIGINT)"
    if time.format == "unix_us":
        return f"TRY_CAST({text} AS BIGINT)", nothing
    if time.format.startswith("unix_"):
        # Whole seconds times a million stay exact in a double until the year 2255.
        factor = {"unix_s": "1e6", "unix_ms": "1e3"}[time.format]
        return f"TRY_CAST(round(TRY_CAST({text} AS DOUBLE) * {factor}) AS BIGINT)", nothing
    if time.format == "iso":
        absolute, local = iso_moments(text)
        utc = f"coalesce({absolute}, {local})"
        return (utc, nothing) if time.zone == UTC_ZONE else (absolute, local)
    parsed = f"epoch_us(try_strptime({text}, {literal(time.format)}))"
    says_offset = "%z" in time.format or "%Z" in time.format
    return (parsed, nothing) if says_offset or time.zone == UTC_ZONE else (nothing, parsed)


def micros(text: str, time: TimeFormat) -> str:
    """Microseconds since 1970 UTC, NULL where `text` is no time; of a repeated hour the second."""
    absolute, local = moments(text, time)
    return f"coalesce({absolute}, {shop_clock(time.zone).utc_sql(local)})"


def cents(text: str, source: Source) -> str:
    """Whole cents of an amount, NULL where `text` is no number or too large.

    Decimals, not floats: exact, halves away from zero; a negative amount stays negative.
    """
    factor = 100 if source.money == "units" else 1
    amount = f"TRY_CAST({text} AS DECIMAL(18, 6))"
    return (
        f"CASE WHEN abs({amount}) < {MAX_CENTS // factor} THEN CAST(CASE WHEN {amount} < 0 "
        f"THEN floor({amount} * {factor}) ELSE round({amount} * {factor}) END AS BIGINT) END"
    )


def read_items(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    table: ItemTable,
    files: Sequence[Path],
    progress: Progress,
) -> str:
    """Read the source's item table; returns a relation of one row per item, or item and stamp.

    Raises:
        NextbuyError: the table cannot be read, or has a row that cannot be used.
    """
    specs: dict[str, ColumnSpec] = {"items.key": table.key}
    specs |= {f"items.fields.{name}": column for name, column in table.fields.items()}
    if table.stamp is not None:
        specs["items.stamp"] = table.stamp
    if table.where:
        specs["items.where"] = Expression(sql=table.where)
    with open_rows(connection, table, files, specs, progress=progress) as rows:
        stamp = micros(rows.texts["items.stamp"], table.time) if table.stamp else "NULL"
        columns = {"item_id": _id(rows.texts["items.key"], source, "item_id"), "us": stamp}
        for name in table.fields:
            text = rows.texts[f"items.fields.{name}"]
            columns[name] = cents(text, source) if name in ("price", "discount") else text
        condition = f"({table.where})" if table.where else "true"
        picked = ", ".join(f"{sql} AS {name}" for name, sql in columns.items())
        connection.execute(
            f"CREATE TEMP TABLE all_items AS SELECT _file, _row, _broken, {picked} "
            f"FROM {rows.relation} WHERE _broken IS NOT NULL OR {condition}"
        )
    texts = [name for name in ("item_id", *table.fields) if name not in ("price", "discount")]
    conditions = [
        "_broken IS NOT NULL",
        "item_id IS NULL",
        *(["us IS NULL"] if table.stamp else ()),
    ]
    conditions += (f"regexp_matches({name}, {literal(NOT_IN_TEXT)})" for name in texts)
    unusable = " OR ".join(conditions)
    bad = connection.execute(
        f"SELECT count(*), arg_min(_file, (_file, _row)), min((_file, _row))[2] "
        f"FROM all_items WHERE {unusable}"
    ).fetchall()[0]
    if bad[0]:
        raise NextbuyError(
            f"{bad[0]:,} rows of the item table cannot be used, the first is {bad[1]}, row "
            f"{bad[2]}: no item, no stamp, cut short, or a control character. Correct the table, "
            "or skip such rows by items.where in the source file."
        )
    content = ", ".join(f"{name} NULLS LAST" for name in table.fields)
    connection.execute(
        "CREATE TEMP TABLE items AS SELECT DISTINCT ON (item_id, us) * FROM all_items "
        f"ORDER BY item_id, us, {content}"
    )
    connection.execute("DROP TABLE all_items")
    return "items"


def with_items(table: ItemTable, events: str, items: str) -> str:
    """The relation `events`, its gaps filled from the relation that `read_items` returned."""
    columns = ", ".join(
        f"coalesce(e.{name}, i.{name}) AS {name}" if name in table.fields else f"e.{name}"
        for name in EVENT_SCHEMA.names
    )
    join, at = ("ASOF LEFT", "AND epoch_us(e.event_time) >= i.us") if table.stamp else ("LEFT", "")
    return f"(SELECT {columns} FROM {events} e {join} JOIN {items} i ON e.item_id = i.item_id {at})"


def _text(source: Source, rows: LogRows, name: str) -> str:
    setting = f"fields.{name}"
    text = _id(rows.texts.get(setting, "CAST(NULL AS VARCHAR)"), source, name)
    if name == "event_id" and source.explode and setting not in rows.of_element:
        # The id of the row is one id for all of its elements, each of which is an event.
        return f"{text} || CASE WHEN _position > 1 THEN '#' || _position ELSE '' END"
    return text


def _id(text: str, source: Source, name: str) -> str:
    if name not in source.float_ids:
        return text
    # What a double could not hold keeps its fraction, so that the row is refused for it.
    lost = f"abs(TRY_CAST({text} AS DOUBLE)) > {2**53}"
    return f"CASE WHEN {lost} THEN {text} ELSE regexp_replace({text}, '[.]0+$', '') END"
