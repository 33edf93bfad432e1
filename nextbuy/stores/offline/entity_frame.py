"""The input of a retrieval, bound to a connection: feature views and entity rows."""

from datetime import datetime
from functools import partial
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView

from nextbuy.errors import NextbuyError
from nextbuy.sql import identifier
from nextbuy.stores.offline.point_in_time import EntityFrame, ViewQuery
from nextbuy.stores.offline.sources import column_for, relation, select
from nextbuy.times import utc


def bind_view(
    connection: duckdb.DuckDBPyConnection,
    view: FeatureView,
    refs: list[str],
    full_feature_names: bool,
    repo_path: Path | None,
) -> ViewQuery:
    """A feature view as the join takes it: the source's columns behind the requested names.

    Raises:
        NextbuyError: the view has no source, or the source lacks a column.
    """
    source = view.batch_source
    if source is None:
        raise NextbuyError(f"Feature view {view.name!r} has no batch source to read from.")
    bound = relation(connection, source, repo_path)
    column = partial(column_for, field_mapping=source.field_mapping or {}, relation=bound)
    name: str = view.projection.name_to_use()  # type: ignore[no-untyped-call]
    prefix = f"{view.projection.name_alias or view.name}__" if full_feature_names else ""
    names = [ref.split(":", 1)[1] for ref in refs if ref.split(":", 1)[0] == name]
    join_keys = view.projection.join_key_map
    keys = [entity.name for entity in view.entity_columns if entity.name != DUMMY_ENTITY_ID]
    created = source.created_timestamp_column or None
    query = ViewQuery(
        name=name,
        source=bound,
        keys=tuple((column(key), join_keys.get(key, key)) for key in keys),
        timestamp=column(source.timestamp_field),
        created=column(created) if created else None,
        features=tuple((column(feature), prefix + feature) for feature in dict.fromkeys(names)),
        ttl=view.ttl or None,
    )
    bound.require(
        [
            *(old for old, _ in query.keys + query.features),
            query.timestamp,
            *filter(None, [query.created]),
        ]
    )
    return query


def bind_frame(
    connection: duckdb.DuckDBPyConnection, rows: pd.DataFrame | pa.Table | str
) -> EntityFrame:
    """The entity rows as the table `entity`, numbered in their order.

    Raises:
        NextbuyError: they have no timestamps, or a column of mixed types.
    """
    if isinstance(rows, pd.DataFrame):
        try:
            rows = pa.Table.from_pandas(rows, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise NextbuyError(f"The entity frame has a column of mixed types: {error}") from None
    if isinstance(rows, str):
        connection.execute(
            f"CREATE TEMP TABLE entity_rows AS SELECT * FROM ({rows.rstrip().rstrip(';')})"
        )
    else:
        connection.register("entity_arrow", rows)
        connection.execute("CREATE TEMP VIEW entity_rows AS SELECT * FROM entity_arrow")
    types = {name: kind for name, kind, *_ in connection.execute("DESCRIBE entity_rows").fetchall()}
    at = _timestamp_column(types)
    untyped = f" REPLACE (NULL::TIMESTAMPTZ AS {identifier(at)})" * (types[at] == '"NULL"')
    connection.execute(
        f"CREATE TEMP TABLE entity AS SELECT row_number() OVER () AS __row, *{untyped} "
        "FROM entity_rows"
    )
    first, last = connection.execute(
        f"SELECT min(t), max(t) FROM (SELECT {identifier(at)}::TIMESTAMPTZ AS t FROM entity)"
    ).fetchall()[0]
    return EntityFrame("entity", tuple(types), at, first, last)


def _timestamp_column(types: dict[str, str]) -> str:
    if "event_timestamp" in types:
        return "event_timestamp"
    timestamps = [name for name, kind in types.items() if kind.startswith("TIMESTAMP")]
    if len(timestamps) == 1:
        return timestamps[0]
    raise NextbuyError(
        "The entity frame needs a column 'event_timestamp' (or exactly one column of timestamps); "
        f"it has {', '.join(types)}."
    )


def check_keys(
    connection: duckdb.DuckDBPyConnection, frame: EntityFrame, views: list[ViewQuery]
) -> None:
    """Check that rows and views fit together.

    Integers and floating-point numbers do, as long as these are exact: a left join of pandas makes
    floats of integers. A column without any value has no type, and fits any key.

    Raises:
        NextbuyError: a join key is missing or of another type, or a name would come twice.
    """
    types = {name: kind for name, kind, *_ in connection.execute("DESCRIBE entity").fetchall()}
    for view in views:
        for source, entity in view.keys:
            if entity not in types:
                raise NextbuyError(
                    f"The entity frame lacks the join key {entity!r} of feature view "
                    f"{view.name!r}; it has {', '.join(frame.columns)}."
                )
            kinds = _family(types[entity]), _family(view.source.types[source])
            if set(kinds) == {"integer", "real"}:
                sides = [
                    ("the entity frame", "entity", entity),
                    (view.source.title, view.source.sql, source),
                ]
                _check_exact(connection, *sides[kinds.index("real")])
            elif len({*kinds}) > 1 and not _emptied(connection, entity, view.source.types[source]):
                raise NextbuyError(
                    f"The join key {entity!r} is {types[entity]} in the entity frame and "
                    f"{view.source.types[source]} in {view.source.title} (feature view "
                    f"{view.name!r}). Give both the same type."
                )
    taken = [*frame.columns, *(name for view in views for _, name in view.features)]
    twice = {name for name in taken if taken.count(name) > 1}
    if twice:
        raise NextbuyError(
            f"The result would have {', '.join(map(repr, sorted(twice)))} twice. "
            + _advice(twice, frame, views)
        )


def _advice(twice: set[str], frame: EntityFrame, views: list[ViewQuery]) -> str:
    if twice & set(frame.columns):
        return "Rename the column of the entity frame, or ask for full_feature_names."
    named = [view.name for view in views if twice & {name for _, name in view.features}]
    if len({name.partition("@")[0] for name in named}) < len(named):
        return (
            f"These are versions of one view: {', '.join(named)}. Request them one at a time, or "
            "one of them under another name (with_name)."
        )
    return "Ask for full_feature_names, or give a view another name (with_name)."


def _emptied(connection: duckdb.DuckDBPyConnection, column: str, kind: str) -> bool:
    """Whether a column of the entity frame has no value at all; it then gets the type `kind`."""
    key = identifier(column)
    values = f"SELECT 1 FROM entity WHERE {key} IS NOT NULL AND {key}::VARCHAR <> 'nan' LIMIT 1"
    if connection.execute(values).fetchone() is not None:
        return False
    connection.execute(f"ALTER TABLE entity ALTER {key} TYPE {kind} USING NULL")
    return True


def _check_exact(
    connection: duckdb.DuckDBPyConnection, title: str, relation: str, column: str
) -> None:
    """Refuse whole numbers that floating point may have rounded to another key.

    Raises:
        NextbuyError: there is one from 2^53 on, which 2^53 + 1 becomes.
    """
    key = identifier(column)
    beyond = connection.execute(
        f"SELECT any_value({key}) FROM {relation} WHERE isfinite({key}) AND abs({key}) >= {2**53}"
    ).fetchall()[0][0]
    if beyond is not None:
        raise NextbuyError(
            f"The join key {column!r} of {title} is floating-point and holds {beyond:.0f}: from "
            "2^53 on they are rounded, perhaps to another key. Keep integers (in pandas Int64, "
            "which has room for missing values)."
        )


def _family(kind: str) -> str:
    if kind.startswith(("ENUM", "VARCHAR")):
        return "text"
    if kind.endswith("INT") or kind.endswith("INTEGER"):
        return "integer"
    return "real" if kind in ("DOUBLE", "FLOAT") else kind


def own_rows(views: list[ViewQuery], dates: tuple[datetime, datetime]) -> str:
    """A query for the keys and times at which the views themselves changed between the dates."""
    keys = list(dict.fromkeys(entity for view in views for _, entity in view.keys))
    complete = [view for view in views if {entity for _, entity in view.keys} == set(keys)]
    if not complete:
        raise NextbuyError(
            f"No feature view of the request has all of its join keys ({', '.join(keys)}), so the "
            "rows are not determined by dates alone. Pass an entity frame."
        )
    start, end = (utc(moment).isoformat() for moment in dates)
    return (
        " UNION ".join(
            f"SELECT {select([*view.keys])}{', ' if keys else ''}"
            f"{identifier(view.timestamp)}::TIMESTAMPTZ AS event_timestamp FROM {view.source.sql} "
            f"WHERE {identifier(view.timestamp)}::TIMESTAMPTZ BETWEEN '{start}' AND '{end}'"
            for view in complete
        )
        + " ORDER BY ALL"
    )
