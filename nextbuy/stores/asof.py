"""The point-in-time join, as DuckDB SQL.

For each entity row at time T and each view: among the rows of its key with `timestamp <= T` (and,
with the cutoff, `created <= T`) the one with the latest timestamp, ties decided by the latest
created timestamp; dropped where `timestamp + ttl < T`. Times are compared as whole microseconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from nextbuy.stores.sources import Relation, literal, quoted, select

MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True)
class View:
    """One feature view of a request: where its rows are and what is wanted of them."""

    name: str
    source: Relation
    keys: tuple[tuple[str, str], ...]
    """(column of the source, column of the entity frame)"""
    timestamp: str
    created: str | None
    features: tuple[tuple[str, str], ...]
    """(column of the source, name in the result)"""
    ttl: timedelta | None


@dataclass(frozen=True)
class Frame:
    """The entity rows: a DuckDB table with a number `__row` and its time range."""

    table: str
    columns: tuple[str, ...]
    timestamp: str
    first: datetime | None
    last: datetime | None


def point_in_time(frame: Frame, views: Sequence[View], by_created: bool) -> str:
    """One query for all views; the result has the frame's rows, in their order.

    With `by_created`, rows whose created timestamp is later than the entity's are not seen.
    """
    parts, joins = [], []
    columns = [f"frame.{quoted(name)}" for name in frame.columns]
    at = f"{quoted(frame.timestamp)}::TIMESTAMPTZ"
    parts.append(
        f"frame AS (SELECT * REPLACE ({at} AS {quoted(frame.timestamp)}) FROM {frame.table})"
    )
    for number, view in enumerate(views):
        parts.extend(_view_parts(number, view, frame, by_created))
        joins.append(f"LEFT JOIN found_{number} ON found_{number}.__row = frame.__row")
        columns += [f"found_{number}.{quoted(name)}" for _, name in view.features]
    return (
        "WITH "
        + ",\n".join(parts)
        + f"\nSELECT {', '.join(columns)} FROM frame\n"
        + "\n".join(joins)
        + "\nORDER BY frame.__row"
    )


def _view_parts(number: int, view: View, frame: Frame, by_created: bool) -> list[str]:
    keys = [f"k{i}" for i in range(len(view.keys))]
    asked = ", ".join(
        f"{quoted(entity)} AS {key}" for key, (_, entity) in zip(keys, view.keys, strict=True)
    )
    at = f"epoch_us({quoted(frame.timestamp)})"
    comma = ", ".join(keys) + ", " if keys else ""
    history_keys = [(source, key) for key, (source, _) in zip(keys, view.keys, strict=True)]
    created = (
        f"coalesce(epoch_us({quoted(view.created)}::TIMESTAMPTZ), {-(2**62)})"
        if view.created
        else "0"
    )
    semi = f"SEMI JOIN asked_{number} USING ({', '.join(keys)})" if keys else ""
    features = ", ".join(quoted(name) for _, name in view.features)
    feature_list = f", {features}" if features else ""
    parts = [
        f"asked_{number} AS (SELECT DISTINCT {asked or '1'} FROM frame)",
        f"history_{number} AS (SELECT * FROM (SELECT "
        + ", ".join(
            filter(
                None,
                [
                    select(history_keys),
                    f"epoch_us({quoted(view.timestamp)}::TIMESTAMPTZ) AS __ts",
                    f"{created} AS __created",
                    select(view.features),
                ],
            )
        )
        + f" FROM {view.source.sql} WHERE {_time_range(view, frame)}) {semi})",
    ]
    same = [f"history_{number}.{key} = rows.{key}" for key in keys]
    if by_created and view.created:
        # A row is found from the moment it was known, but only while none that was known before
        # has a later timestamp: those that set a record, in the order in which they became known.
        order = f"PARTITION BY {', '.join(keys)} " if keys else ""
        parts.append(
            f"records_{number} AS (SELECT *, greatest(__ts, __created) AS __known FROM "
            f"history_{number} QUALIFY (__ts::HUGEINT * 9223372036854775808 + __created) >= "
            f"max(__ts::HUGEINT * 9223372036854775808 + __created) OVER ({order}"
            "ORDER BY greatest(__ts, __created), __ts, __created "
            "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW))"
        )
        parts.append(
            f"single_{number} AS (SELECT * FROM records_{number} QUALIFY row_number() OVER ("
            f"PARTITION BY {comma}__known ORDER BY __ts DESC, __created DESC) = 1)"
        )
        source, order_by = f"single_{number}", "__known"
    elif view.created:
        parts.append(
            f"single_{number} AS (SELECT * FROM history_{number} QUALIFY row_number() OVER ("
            f"PARTITION BY {comma}__ts ORDER BY __created DESC) = 1)"
        )
        source, order_by = f"single_{number}", "__ts"
    else:
        source, order_by = f"history_{number}", "__ts"
    on = " AND ".join(
        [s.replace(f"history_{number}.", "past.") for s in same] + [f"rows.__at >= past.{order_by}"]
    )
    ttl = f" WHERE __at - __ts <= {view.ttl // MICROSECOND}" if view.ttl else ""
    parts.append(
        f"found_{number} AS (SELECT __row{feature_list} FROM "
        f"(SELECT __row, {at} AS __at{', ' + asked if asked else ''} FROM frame) AS rows "
        f"ASOF JOIN {source} AS past ON {on}{ttl})"
    )
    return parts


def _time_range(view: View, frame: Frame) -> str:
    """Only what any row can see, so that whole row groups are skipped by their statistics."""
    if frame.first is None or frame.last is None:
        return "false"
    column = quoted(view.timestamp)
    seen = [f"{column}::TIMESTAMPTZ <= {_moment(frame.last)}"]
    if view.ttl:
        seen.append(f"{column}::TIMESTAMPTZ >= {_moment(frame.first - view.ttl)}")
    return " AND ".join(seen)


def _moment(moment: datetime) -> str:
    return f"TIMESTAMPTZ {literal(moment.isoformat())}"
