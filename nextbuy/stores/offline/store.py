"""Feast's offline store on DuckDB: as-of joins, latest rows, appends.

`type: nextbuy.stores.offline.NextbuyOfflineStore` in feature_store.yaml.
"""

import uuid
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_source import DataSource
from feast.feature_logging import LoggingConfig, LoggingSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.file_source import FileLoggingDestination, FileSource
from feast.infra.offline_stores.offline_store import RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.utils import compute_non_entity_date_range

from nextbuy.atomic import replacing
from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.sql import identifier
from nextbuy.stores import store_settings
from nextbuy.stores.offline.entity_frame import bind_frame, bind_view, check_keys, own_rows
from nextbuy.stores.offline.point_in_time import (
    BEFORE_ALL,
    IN_ORDER,
    EntityFrame,
    ViewQuery,
    point_in_time,
)
from nextbuy.stores.offline.retrieval import DuckdbRetrievalJob
from nextbuy.stores.offline.sources import relation
from nextbuy.times import utc


class NextbuyOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """The `offline_store` section of feature_store.yaml."""

    type: str = "nextbuy.stores.offline.NextbuyOfflineStore"


class NextbuyOfflineStore(DuckDBOfflineStore):
    """Reads Parquet (a file, a glob, a folder of days) through DuckDB; see `point_in_time`."""

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
        refs = [ref for ref in feature_refs if ":" in ref]
        dates = compute_non_entity_date_range(feature_views, start_date, end_date)

        def views_of(connection: duckdb.DuckDBPyConnection) -> list[ViewQuery]:
            return [
                bind_view(connection, view, refs, full_feature_names, config.repo_path)
                for view in feature_views
            ]

        def frame_of(connection: duckdb.DuckDBPyConnection, views: list[ViewQuery]) -> EntityFrame:
            source = own_rows(views, dates) if entity_df is None else entity_df
            return bind_frame(connection, source)

        def plan(connection: duckdb.DuckDBPyConnection) -> str:
            views = views_of(connection)
            frame = frame_of(connection, views)
            check_keys(connection, frame, views)
            return point_in_time(frame, views, filter_by_created_timestamp)

        def metadata() -> RetrievalMetadata:
            with duckdb_connection(store_settings()) as connection:
                frame = frame_of(connection, views_of(connection) if entity_df is None else [])
            keys = [name for name in frame.columns if name != frame.timestamp]
            return RetrievalMetadata(feature_refs, keys, frame.first, frame.last)

        return DuckdbRetrievalJob(
            plan,
            order_by=IN_ORDER,
            repo_path=config.repo_path,
            on_demand_feature_views=OnDemandFeatureView.get_requested_odfvs(
                feature_refs, project, registry
            ),
            full_feature_names=full_feature_names,
            metadata=metadata,
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
        only: pa.Table | None = None,
    ) -> DuckdbRetrievalJob:
        """The latest row of each key between the dates (both included), for materialization.

        Rows with a null key are left out: they cannot be requested. With `only`, a table with the
        join key columns, keys that are not in it are left out too.
        """
        by = [timestamp_field, *filter(None, [created_timestamp_column])]
        columns = [*join_key_columns, *feature_name_columns, *by]

        def plan(connection: duckdb.DuckDBPyConnection) -> str:
            bound = relation(connection, data_source, config.repo_path)
            bound.require(columns)
            # Only keys and times are grouped; the rows at a key's newest time, one but for ties,
            # are fetched by a join.
            at = f"source.{identifier(timestamp_field)}::TIMESTAMPTZ"
            created_column = identifier(created_timestamp_column or "")
            created = (
                f"coalesce(epoch_us({created_column}::TIMESTAMPTZ), {BEFORE_ALL})"
                if created_timestamp_column
                else "0"
            )
            rows = f"{bound.sql} AS source"
            where = _between(at, start_date, end_date)
            keys = "".join(f"source.{identifier(key)}, " for key in join_key_columns)
            same = "".join(
                f"source.{identifier(k)} = newest.{identifier(k)} AND " for k in join_key_columns
            )
            key_list = ", ".join(map(identifier, join_key_columns)) or "()"
            if only is not None and join_key_columns:
                connection.register("only_keys", only)
                where += f" AND ({_listed(join_key_columns, 'source.')}) IN (FROM only_keys)"
            return (
                f"WITH newest AS MATERIALIZED (SELECT {keys}max({at}) AS __at FROM {rows} "
                f"WHERE {where} GROUP BY ALL), "
                f"tied AS MATERIALIZED (SELECT {_listed(columns, 'source.')}, {created} AS __c, "
                f"{bound.row_number} AS __n FROM {rows} JOIN newest ON {same}{at} = __at), "
                f"latest AS (SELECT max_by(__n, (__c, __n)) AS __n FROM tied GROUP BY {key_list}) "
                f"SELECT {_listed(columns)} FROM tied JOIN latest USING (__n)"
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
        columns = [*join_key_columns, *feature_name_columns, *by]

        def plan(connection: duckdb.DuckDBPyConnection) -> str:
            bound = relation(connection, data_source, config.repo_path)
            bound.require(columns)
            where = _between(f"{identifier(timestamp_field)}::TIMESTAMPTZ", start_date, end_date)
            return f"SELECT {_listed(columns)} FROM {bound.sql} WHERE {where}"

        return _job(config, plan)

    @staticmethod
    def offline_write_batch(
        config: RepoConfig,
        feature_view: FeatureView,
        table: pa.Table,
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Append rows as a new file in the source's folder; existing files stay as they are.

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
        with replacing(target) as temporary:
            pq.write_table(table, temporary, compression="zstd")
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
        with duckdb_connection(store_settings()) as connection:
            bound = relation(connection, data_source, config.repo_path)
            schema = connection.sql(f"SELECT * FROM {bound.sql} LIMIT 0").to_arrow_table().schema
        return zip(schema.names, map(str, schema.types), strict=True)


def _job(
    config: RepoConfig, plan: Callable[[duckdb.DuckDBPyConnection], str]
) -> DuckdbRetrievalJob:
    return DuckdbRetrievalJob(plan, repo_path=config.repo_path)


def _between(at: str, start: datetime | None, end: datetime | None) -> str:
    bounds = [
        f"{at} {sign} TIMESTAMPTZ '{utc(moment).isoformat()}'"
        for sign, moment in ((">=", start), ("<=", end))
        if moment is not None
    ]
    return " AND ".join(bounds) or "true"


def _listed(columns: list[str], prefix: str = "") -> str:
    return ", ".join(prefix + identifier(name) for name in dict.fromkeys(columns))


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
