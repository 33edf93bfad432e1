"""The point-in-time join, as DuckDB SQL.

For each entity row at time T and each view: among the rows of its key with `timestamp <= T` (and,
with the cutoff, `created <= T`) the one with the latest timestamp, ties decided by the latest
created timestamp, then by the place in the files; nothing where `timestamp + ttl < T`. Times are
compared as whole microseconds.

Only keys, times and row numbers are sorted and joined. The features follow at the end, by row
number, so that their width costs one pass over the files and no sort.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from nextbuy.sql import identifier, literal
from nextbuy.stores.offline.sources import Relation
from nextbuy.times import MICROSECOND

PLACES = 2**63  # more than there are row numbers
BEFORE_ALL = -(2**62)  # a missing created timestamp: earlier than any


@dataclass(frozen=True)
class ViewQuery:
    """One feature view of a retrieval: where its rows are and which columns it needs."""

    name: str
    source: Relation
    keys: tuple[tuple[str, str], ...]
    """(column of the source, column of the entity frame)"""
    timestamp: str
    created: str | None
    features: tuple[tuple[str, str], ...]
    """(column of the source, name in the result)"""
    ttl: timedelta | None

    @property
    def entity_keys(self) -> tuple[str, ...]:
        """The entity frame's columns that make the key."""
        return tuple(entity for _, entity in self.keys)


@dataclass(frozen=True)
class EntityFrame:
    """The entity rows: a DuckDB table with a number `__row` and its time range."""

    table: str
    columns: tuple[str, ...]
    timestamp: str
    first: datetime | None
    last: datetime | None


IN_ORDER = "frame.__row"
"""What `point_in_time` is sorted by to have the rows in the frame's order."""


def point_in_time(frame: EntityFrame, views: Sequence[ViewQuery], by_created: bool) -> str:
    """One query for all views, without an order; the result has the frame's rows.

    With `by_created`, rows whose created timestamp is later than the entity's are not seen.
    """
    key_sets = list(dict.fromkeys(view.entity_keys for view in views))
    parts = [part for i, keys in enumerate(key_sets) for part in _key_parts(i, keys, frame)]
    columns = [
        f"frame.{identifier(name)}::TIMESTAMPTZ AS {identifier(name)}"
        if name == frame.timestamp
        else f"frame.{identifier(name)}"
        for name in frame.columns
    ]
    joins = []
    for i, view in enumerate(views):
        parts += _view_parts(i, key_sets.index(view.entity_keys), view, frame, by_created)
        features = [f"{identifier(old)} AS {identifier(new)}" for old, new in view.features]
        listed = ", ".join([f"{view.source.row_number} AS __n", *features])
        parts.append(
            f"fetched_{i} AS (SELECT match_{i}.__row, source.* FROM "
            f"(SELECT {listed} FROM {view.source.sql}) AS source "
            f"JOIN match_{i} ON source.__n = match_{i}.n)"
        )
        joins.append(f"LEFT JOIN fetched_{i} AS view_{i} ON view_{i}.__row = frame.__row")
        columns += [f"view_{i}.{identifier(new)}" for _, new in view.features]
    return (
        f"WITH {', '.join(parts)} " * bool(parts)
        + f"SELECT {', '.join(columns)} FROM {frame.table} AS frame {' '.join(joins)}"
    )


def _key_parts(number: int, keys: tuple[str, ...], frame: EntityFrame) -> list[str]:
    """Number the distinct keys; a wide or textual key is an integer in the joins that follow."""
    columns = ", ".join(map(identifier, keys)) or "0 AS nothing"
    known = " AND ".join(f"{identifier(key)} IS NOT NULL" for key in keys) or "true"
    using = ", ".join(map(identifier, keys)) or "nothing"
    rows = frame.table if keys else f"(SELECT *, 0 AS nothing FROM {frame.table})"
    return [
        f"requested_{number} AS MATERIALIZED (SELECT *, row_number() OVER () AS id FROM "
        f"(SELECT DISTINCT {columns} FROM {frame.table} WHERE {known}))",
        f"rows_{number} AS (SELECT __row, id, epoch_us({identifier(frame.timestamp)}::TIMESTAMPTZ) "
        f"AS moment FROM {rows} JOIN requested_{number} USING ({using}))",
    ]


def _view_parts(
    i: int, key_set: int, view: ViewQuery, frame: EntityFrame, by_created: bool
) -> list[str]:
    fresh = f"moment - t <= {view.ttl // MICROSECOND}" if view.ttl else "true"
    if frame.last is not None and frame.first == frame.last:
        # One moment for all rows, as when everybody is scored: a key has one answer.
        heard = f"c <= epoch_us({_moment(frame.last)})" if by_created and view.created else "true"
        return [
            f"latest_{i} AS (SELECT id, max_by(n, (t, c, n)) AS n FROM "
            f"({_past(key_set, view, frame)}) WHERE {heard} GROUP BY id)",
            f"match_{i} AS (SELECT __row, n FROM rows_{key_set} JOIN latest_{i} USING (id) "
            "WHERE moment IS NOT NULL)",
        ]
    if view.created is None:
        # Time and row number in one integer: the nearest of them is the last of rows that tie.
        return [
            f"past_{i} AS ({_past(key_set, view, frame)})",
            f"dated_{i} AS (SELECT id, t, n, t::HUGEINT * {PLACES} + n AS place FROM past_{i})",
            f"match_{i} AS (SELECT __row, n FROM (SELECT __row, moment, t, n "
            f"FROM rows_{key_set} AS rows ASOF JOIN dated_{i} AS past ON rows.id = past.id "
            f"AND (rows.moment + 1)::HUGEINT * {PLACES} > past.place) WHERE {fresh})",
        ]
    parts = [
        f"past_{i} AS MATERIALIZED ({_past(key_set, view, frame)})",
        # The nearest time at which the key has a row ...
        f"near_{i} AS MATERIALIZED (SELECT * FROM (SELECT __row, rows.id, moment, t "
        f"FROM rows_{key_set} AS rows ASOF JOIN past_{i} AS past "
        f"ON rows.id = past.id AND rows.moment >= past.t) WHERE {fresh})",
        # ... and of the rows at that time the one created last.
        f"best_{i} AS (SELECT __row, max_by(n, (c, n)) AS n FROM near_{i} JOIN past_{i} "
        f"USING (id, t) WHERE {'c <= moment' if by_created else 'true'} GROUP BY __row)",
    ]
    if not by_created:
        return [*parts, f"match_{i} AS (FROM best_{i})"]
    return [
        *parts,
        # Where that time was not known yet, an earlier one may have been. A row is known from the
        # later of its two timestamps on, and counts until a row with a later timestamp is known:
        # sort the rows of these keys by when they became known and keep those that set a record.
        f"unheard_{i} AS MATERIALIZED (FROM near_{i} ANTI JOIN best_{i} USING (__row))",
        f"known_{i} AS (SELECT *, greatest(t, c) AS known FROM past_{i} "
        f"SEMI JOIN unheard_{i} USING (id))",
        f"record_{i} AS (SELECT id, known, max(t) AS t, max_by(n, (t, c, n)) AS n FROM "
        f"(SELECT *, max((t, c, n)) OVER (PARTITION BY id ORDER BY known, t, c, n "
        f"ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS top FROM known_{i}) "
        f"WHERE (t, c, n) = top GROUP BY id, known)",
        f"older_{i} AS (SELECT __row, n FROM (SELECT __row, moment, record.t, n FROM unheard_{i} "
        f"ASOF JOIN record_{i} AS record ON unheard_{i}.id = record.id "
        f"AND unheard_{i}.moment >= record.known) WHERE {fresh})",
        f"match_{i} AS (FROM best_{i} UNION ALL FROM older_{i})",
    ]


def _past(key_set: int, view: ViewQuery, frame: EntityFrame) -> str:
    """Of the whole history: the rows of these keys, in the time that any entity row can see."""
    at = f"{identifier(view.timestamp)}::TIMESTAMPTZ"
    created = (
        f"coalesce(epoch_us({identifier(view.created)}::TIMESTAMPTZ), {BEFORE_ALL})"
        if view.created
        else "0"
    )
    on = [
        f"source.{identifier(source)} = requested.{identifier(entity)}"
        for source, entity in view.keys
    ] or ["true"]
    return (
        f"SELECT id, epoch_us({at}) AS t, {created} AS c, {view.source.row_number} AS n "
        f"FROM {view.source.sql} AS source JOIN requested_{key_set} AS requested "
        f"ON {' AND '.join(on)} "
        f"WHERE {_time_range(at, view, frame)}"
    )


def _time_range(at: str, view: ViewQuery, frame: EntityFrame) -> str:
    """Bounds that skip whole row groups by their statistics."""
    if frame.first is None or frame.last is None:
        return "false"
    bounds = [f"{at} <= {_moment(frame.last)}"]
    if view.ttl:
        bounds.append(f"{at} >= {_moment(frame.first - view.ttl)}")
    return " AND ".join(bounds)


def _moment(moment: datetime) -> str:
    return f"TIMESTAMPTZ {literal(moment.isoformat())}"
