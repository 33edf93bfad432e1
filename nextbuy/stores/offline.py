"""Feast's offline store on DuckDB: as-of joins, latest rows, appends.

`type: nextbuy.stores.offline.NextbuyOfflineStore` in feature_store.yaml.
"""

import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.utils import compute_non_entity_date_range

from nextbuy.engine import duckdb_engine
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.stores.asof import BEFORE_ALL, Frame, View, point_in_time
from nextbuy.stores.job import DuckdbRetrievalJob
from nextbuy.stores.sources import column_for, quoted, relation, select


class NextbuyOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The `offline_store` section of feature_store.yaml."""

    type: str = "nextbuy.stores.offline.NextbuyOfflineStore"
    staging_location: str | None = None
    """A folder for `to_remote_storage`; without it there is no export."""


class NextbuyOfflineStore(DuckDBOfflineStore):
    """Reads Parquet (a file, a glob, a folder of days) through DuckDB; see `asof` for the join."""

    supports_filter_by_created_timestamp = True

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | pa.Table | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> DuckdbRetrievalJob:
        """Join the views' features to the entity rows, each as it was known at the row's time.

        The entity frame is a pandas frame, an Arrow table or a query for DuckDB. Without one, the
        rows are the distinct keys and times that the views themselves have between the dates.
        Naive timestamps are UTC.
        """
        _check_versions(feature_views)
        refs = [ref for ref in feature_refs if ":" in ref]
        dates = compute_non_entity_date_range(feature_views, start_date, end_date)

        def views_of(con: duckdb.DuckDBPyConnection) -> list[View]:
            return [
                _view(con, view, refs, full_feature_names, config.repo_path)
                for view in feature_views
            ]

        def frame_of(con: duckdb.DuckDBPyConnection, views: list[View]) -> Frame:
            source = _own_rows(views, dates) if entity_df is None else entity_df
            return _frame(con, source)

        def plan(con: duckdb.DuckDBPyConnection) -> str:
            views = views_of(con)
            frame = frame_of(con, views)
            _check_keys(con, frame, views)
            return point_in_time(frame, views, filter_by_created_timestamp)

        def metadata() -> RetrievalMetadata:
            with duckdb_engine(Settings()) as con:
                frame = frame_of(con, views_of(con) if entity_df is None else [])
            keys = [name for name in frame.columns if name != frame.timestamp]
            return RetrievalMetadata(feature_refs, keys, frame.first, frame.last)

        return DuckdbRetrievalJob(
            plan,
            repo_path=config.repo_path,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(
                feature_refs, project, registry
            ),
            full_feature_names=full_feature_names,
            metadata=metadata,
            staging_location=config.offline_store.staging_location,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> DuckdbRetrievalJob:
        """The latest row of each key between the dates (both included), for materialization.

        Rows with a null key are left out: nobody can ask for them.
        """
        by = [timestamp_field, *filter(None, [created_timestamp_column])]
        wanted = [*join_key_columns, *feature_name_columns, *by]

        def plan(con: duckdb.DuckDBPyConnection) -> str:
            bound = relation(con, data_source, config.repo_path)
            bound.require(wanted)
            # Only keys, times and row numbers are grouped; the rows themselves follow by number.
            number = bound.row_number
            at = f"{quoted(timestamp_field)}::TIMESTAMPTZ"
            created = (
                f"coalesce(epoch_us({quoted(created_timestamp_column)}::TIMESTAMPTZ), {BEFORE_ALL})"
                if created_timestamp_column
                else "0"
            )
            keys = "".join(f"{quoted(key)}, " for key in join_key_columns)
            where = _between(timestamp_field, start_date, end_date)
            return (
                f"WITH newest AS MATERIALIZED (SELECT {keys}max({at}) AS __at "
                f"FROM {bound.sql} WHERE {where} GROUP BY ALL), "
                f"latest AS MATERIALIZED (SELECT max_by(n, (c, n)) AS __n FROM "
                f"(SELECT {keys}{at} AS __at, {created} AS c, {number} AS n FROM {bound.sql} "
                f"WHERE {where}) JOIN newest USING ({keys}__at) GROUP BY {keys}__at) "
                f"SELECT {_listed(wanted)} FROM {bound.sql} JOIN latest ON __n = {number}"
            )

        return _job(config, plan)

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> DuckdbRetrievalJob:
        """Every row between the dates (both included)."""
        by = [timestamp_field, *filter(None, [created_timestamp_column])]
        wanted = [*join_key_columns, *feature_name_columns, *by]

        def plan(con: duckdb.DuckDBPyConnection) -> str:
            bound = relation(con, data_source, config.repo_path)
            bound.require(wanted)
            where = _between(timestamp_field, start_date, end_date)
            return f"SELECT {_listed(wanted)} FROM {bound.sql} WHERE {where}"

        return _job(config, plan)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append rows as a new file in the source's folder; nothing that is there is rewritten.

        Raises:
            NextbuyError: the source is not a folder, is published as a whole by its own command,
                or the rows do not have its columns.
        """
        source = feature_view.batch_source
        if not isinstance(source, FileSource):
            raise NextbuyError(f"Feature view {feature_view.name!r} has no file to append to.")
        folder = Path(FileSource.get_uri_for_file_path(config.repo_path, source.path))
        if not folder.is_dir() or (folder / "manifest.json").exists():
            why = "is published as a whole" if folder.is_dir() else "is not a folder"
            raise NextbuyError(
                f"Cannot append to {folder} (feature view {feature_view.name!r}): it {why}. Point "
                "the source at a folder of Parquet files of its own."
            )
        existing = next(iter(sorted(folder.rglob("*.parquet"))), None)
        if existing is not None:
            table = _as_written(table, pq.read_schema(existing), folder)
        target = folder / f"part-{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:8]}.parquet"
        aside = target.with_suffix(".writing")
        pq.write_table(table, aside, compression="zstd")
        aside.replace(target)
        if progress:
            progress(table.num_rows)

    @staticmethod
    def write_logged_features(
        config: RepoConfig,
        data: pa.Table | Path,
        source: LoggingSource,
        logging_config: LoggingConfig,
        registry: BaseRegistry,
    ) -> None:
        """Append logged features as a new file in the destination folder."""
        destination = logging_config.destination
        if not isinstance(destination, FileLoggingDestination):
            raise NextbuyError("Features can only be logged to a FileLoggingDestination here.")
        table = pq.read_table(data) if isinstance(data, Path) else data
        folder = Path(FileSource.get_uri_for_file_path(config.repo_path, destination.path))
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_to_dataset(
            table,
            folder,
            partition_cols=destination.partition_by or None,
            basename_template=f"{uuid.uuid4().hex}-{{i}}.parquet",
        )

    def get_table_column_names_and_types_from_data_source(
        self, config: RepoConfig, data_source: DataSource
    ) -> Iterable[tuple[str, str]]:
        """Columns and Arrow types of a source; the folder of a day is not a column."""
        with duckdb_engine(Settings()) as con:
            bound = relation(con, data_source, config.repo_path)
            schema = con.sql(f"SELECT * FROM {bound.sql} LIMIT 0").to_arrow_table().schema
        return zip(schema.names, map(str, schema.types), strict=True)


def _job(
    config: RepoConfig, plan: Callable[[duckdb.DuckDBPyConnection], str]
) -> DuckdbRetrievalJob:
    staging = config.offline_store.staging_location
    return DuckdbRetrievalJob(plan, repo_path=config.repo_path, staging_location=staging)


def _between(timestamp: str, start: datetime | None, end: datetime | None) -> str:
    bounds = [
        f"{quoted(timestamp)}::TIMESTAMPTZ {sign} TIMESTAMPTZ '{_utc(moment).isoformat()}'"
        for sign, moment in ((">=", start), ("<=", end))
        if moment is not None
    ]
    return " AND ".join(bounds) or "true"


def _listed(columns: list[str]) -> str:
    return ", ".join(map(quoted, dict.fromkeys(columns)))


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _view(
    con: duckdb.DuckDBPyConnection,
    view: FeatureView,
    refs: list[str],
    full_feature_names: bool,
    repo_path: Path | None,
) -> View:
    source = view.batch_source
    if source is None:
        raise NextbuyError(f"Feature view {view.name!r} has no batch source to read from.")
    bound = relation(con, source, repo_path)
    column = partial(column_for, field_mapping=source.field_mapping or {}, relation=bound)
    name: str = view.projection.name_to_use()  # type: ignore[no-untyped-call]
    prefix = f"{view.projection.name_alias or view.name}__" if full_feature_names else ""
    names = [ref.split(":", 1)[1] for ref in refs if ref.split(":", 1)[0] == name]
    join_keys = view.projection.join_key_map
    keys = [entity.name for entity in view.entity_columns if entity.name != DUMMY_ENTITY_ID]
    created = source.created_timestamp_column or None
    found = View(
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
            *(old for old, _ in found.keys + found.features),
            found.timestamp,
            *filter(None, [found.created]),
        ]
    )
    return found


def _frame(con: duckdb.DuckDBPyConnection, rows: pd.DataFrame | pa.Table | str) -> Frame:
    if isinstance(rows, pd.DataFrame):
        try:
            rows = pa.Table.from_pandas(rows, preserve_index=False)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise NextbuyError(f"The entity frame has a column of mixed types: {error}") from None
    if isinstance(rows, str):
        con.execute(f"CREATE TEMP TABLE entity_rows AS SELECT * FROM ({rows.rstrip().rstrip(';')})")
    else:
        con.register("entity_arrow", rows)
        con.execute("CREATE TEMP VIEW entity_rows AS SELECT * FROM entity_arrow")
    types = {name: kind for name, kind, *_ in con.execute("DESCRIBE entity_rows").fetchall()}
    at = _timestamp_column(types)
    con.execute(
        "CREATE TEMP TABLE entity AS SELECT row_number() OVER () AS __row, * FROM entity_rows"
    )
    first, last = con.execute(
        f"SELECT min(t), max(t) FROM (SELECT {quoted(at)}::TIMESTAMPTZ AS t FROM entity)"
    ).fetchall()[0]
    return Frame("entity", tuple(types), at, first, last)


def _timestamp_column(types: dict[str, str]) -> str:
    if "event_timestamp" in types:
        return "event_timestamp"
    found = [name for name, kind in types.items() if kind.startswith("TIMESTAMP")]
    if len(found) == 1:
        return found[0]
    raise NextbuyError(
        "The entity frame needs a column 'event_timestamp' (or exactly one column of timestamps); "
        f"it has {', '.join(types)}."
    )


def _check_keys(con: duckdb.DuckDBPyConnection, frame: Frame, views: list[View]) -> None:
    types = {name: kind for name, kind, *_ in con.execute("DESCRIBE entity").fetchall()}
    for view in views:
        for source, entity in view.keys:
            if entity not in types:
                raise NextbuyError(
                    f"The entity frame lacks the join key {entity!r} of feature view "
                    f"{view.name!r}; it has {', '.join(frame.columns)}."
                )
            if _family(types[entity]) != _family(view.source.types[source]):
                raise NextbuyError(
                    f"The join key {entity!r} is {types[entity]} in the entity frame and "
                    f"{view.source.types[source]} in {view.source.title} (feature view "
                    f"{view.name!r}). Give both the same type."
                )
    taken = [*frame.columns, *(name for view in views for _, name in view.features)]
    twice = {name for name in taken if taken.count(name) > 1}
    if twice:
        raise NextbuyError(
            f"The result would have {', '.join(map(repr, sorted(twice)))} twice. Rename the column "
            "of the entity frame, or ask for full_feature_names."
        )


def _family(kind: str) -> str:
    if kind.startswith(("ENUM", "VARCHAR")):
        return "text"
    if kind.endswith("INT") or kind.endswith("INTEGER"):
        return "integer"
    return kind


def _own_rows(views: list[View], dates: tuple[datetime, datetime]) -> str:
    """A query for the keys and times at which the views themselves changed between the dates."""
    keys = list(dict.fromkeys(entity for view in views for _, entity in view.keys))
    complete = [view for view in views if {entity for _, entity in view.keys} == set(keys)]
    if not complete:
        raise NextbuyError(
            f"No feature view of the request has all of its join keys ({', '.join(keys)}), so the "
            "rows are not determined by dates alone. Pass an entity frame."
        )
    start, end = (_utc(moment).isoformat() for moment in dates)
    return (
        " UNION ".join(
            f"SELECT {select([*view.keys])}{', ' if keys else ''}"
            f"{quoted(view.timestamp)}::TIMESTAMPTZ AS event_timestamp FROM {view.source.sql} "
            f"WHERE {quoted(view.timestamp)}::TIMESTAMPTZ BETWEEN '{start}' AND '{end}'"
            for view in complete
        )
        + " ORDER BY ALL"
    )


def _as_written(table: pa.Table, schema: pa.Schema, folder: Path) -> pa.Table:
    if set(table.column_names) != set(schema.names):
        raise NextbuyError(
            f"The rows to append have the columns {', '.join(table.column_names)}; the files in "
            f"{folder} have {', '.join(schema.names)}."
        )
    try:
        return table.select(schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise NextbuyError(
            f"The rows to append do not fit the files in {folder}: {error}"
        ) from None


def _check_versions(views: list[FeatureView]) -> None:
    for view in views:
        if getattr(view.projection, "version_tag", None) is not None:
            raise NextbuyError(
                f"{view.name!r} is asked for by version; the offline store has only the latest."
            )
