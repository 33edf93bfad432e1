"""Feature definitions as DuckDB SQL, for the batch build, the live path and the evaluation."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache

import ibis
import ibis.expr.types as ir

from nextbuy.features import TABLES, FeatureTable
from nextbuy.features.table import SQL_TYPES
from nextbuy.shop_clock import UTC_CLOCK, ShopClock, shop_clock
from nextbuy.tables.sessions import SESSION_EVENTS
from nextbuy.times import DAY, to_us
from nextbuy.versioned_table import Manifest

FROM_US, BEFORE = "part_from", "rows_before"
"""Relations that a definition reads beside `session_events` when it gives a part of a table: one
row with the `first_us` of the part, and the carried features as they were before."""


def definition_clock(zone: str, sessions: Manifest | None, days_ahead: int = 0) -> ShopClock:
    """The clock of a zone for definitions that read the published sessions.

    `days_ahead` are those after the newest event that are to be right too.
    """
    clock = shop_clock(zone)
    if sessions is None or not sessions.days:
        return clock
    first_us = to_us(datetime.fromisoformat(min(sessions.days)))
    return clock.between(first_us, sessions.info["newest_us"] + days_ahead * DAY)


def feature_rows(
    table: FeatureTable, newest_us: int, part: bool = False, clock: ShopClock = UTC_CLOCK
) -> str:
    """The table's rows as SQL over `session_events`, in the form in which they are published.

    A part of them begins at the `first_us` of the relation `FROM_US`, and goes on from the relation
    `BEFORE` where the events do not reach back to the beginning.
    """
    features = tuple(feature.name for feature in table.features)
    sql = _compiled(table.name, features, table.gap_us, part, clock)
    return published_form(table, f"({sql})", newest_us)


def published_form(table: FeatureTable, rows: str, newest_us: int) -> str:
    """Feast's layout: keys, both timestamps, features.

    A batch row is computed from what was known at its event timestamp, so that is also the moment
    from which it could have been created.
    """
    features = (
        f'CAST("{feature.name}" AS {SQL_TYPES[feature.dtype]}) AS "{feature.name}"'
        for feature in table.features
    )
    moment = "make_timestamptz(event_us)"
    columns = [*table.keys, f"{moment} AS event_timestamp", f"{moment} AS created_timestamp"]
    return f"SELECT {', '.join([*columns, *features])} FROM {rows} WHERE event_us <= {newest_us}"


@cache
def _compiled(
    name: str, features: Sequence[str], gap_us: int | None, part: bool, clock: ShopClock
) -> str:
    """The definition's SQL, without end; compiling takes longer than running it on a small log."""
    (table,) = (table for table in TABLES if table.name == name)
    kept = tuple(f for f in table.features if f.name in features)
    table = replace(table, features=kept, gap_us=gap_us)
    if not part:
        return duckdb_sql(table.build(SESSION_EVENTS, clock=clock))
    before = ibis.table(dict.fromkeys(table.keys, "string") | table.carried, name=BEFORE)
    first_us = ibis.table({"first_us": "int64"}, name=FROM_US).first_us.max().as_scalar()
    of_shopper = "user_id" in table.keys  # all events of these shoppers are at hand
    carried = None if of_shopper else before
    return duckdb_sql(table.build(SESSION_EVENTS, carried, first_us, clock))


def duckdb_sql(definition: ir.Table) -> str:
    """A definition as DuckDB runs it."""
    return str(ibis.to_sql(definition, dialect="duckdb"))
