"""Materialization as a stream of Arrow batches from DuckDB to Redis.

`batch_engine: {type: nextbuy.stores.compute_engine.NextbuyEngine}` in feature_store.yaml; then
`feast materialize` and `feast materialize-incremental` go through it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import redis
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.online_stores.redis import RedisType
from feast.infra.registry.base_registry import BaseRegistry
from feast.repo_config import RepoConfig
from feast.utils import _get_column_names

from nextbuy.connection import duckdb_connection
from nextbuy.stores import store_settings
from nextbuy.stores.loaded_tables import (
    LoadedTable,
    LoadRecord,
    loaded_table,
    retain,
    rows_that_left,
)
from nextbuy.stores.offline.store import NextbuyOfflineStore
from nextbuy.stores.online.encoded_rows import EncodedRows, rows_from_arrow
from nextbuy.stores.online.encoding import joined, key_values, rows_of_bytes
from nextbuy.stores.online.layout import RedisLayout, redis_layout
from nextbuy.stores.online.removal import former_prefixes, remove, remove_prefix, stored_rows
from nextbuy.stores.online.store import NextbuyOnlineStore
from nextbuy.stores.online.writer import write
from nextbuy.times import EPOCH

BATCH_ROWS = 20_000


class NextbuyEngineConfig(LocalComputeEngineConfig):
    """The `batch_engine` section of feature_store.yaml."""

    type: str = "nextbuy.stores.compute_engine.NextbuyEngine"  # type: ignore[assignment]


@dataclass(frozen=True)
class Load:
    """What a materialization did with one view."""

    rows: int
    """Read from the table; Redis has each of them or a newer one."""
    removed: int
    """Rows that the table has no more, out of Redis."""


class NextbuyEngine(LocalComputeEngine):
    """Feast's local engine, except for plain feature views between our own two stores.

    Rows that a published table lost since it was loaded leave Redis.
    """

    def __init__(self, type: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.search_redis = False
        """Look through all of Redis for rows that a table does not have."""
        self.loads: dict[str, Load] = {}
        """View -> its last materialization by this engine."""

    def rows_kept(self, view: str, keys: list[str]) -> pa.Table | None:
        """Rows that stay in Redis though no table has them; None without any.

        Args:
            view: the feature view's name.
            keys: its join keys.

        Returns:
            these keys, and `us`: the row's time (int64, microseconds since 1970).
        """
        return None

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        if not self._is_plain(task.feature_view):
            return super()._materialize_one(registry, task, **kwargs)
        job_id = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        try:
            self.load(registry, task)
        except Exception as error:  # Feast raises it again for its caller
            return LocalMaterializationJob(job_id, MaterializationJobStatus.ERROR, error)
        return LocalMaterializationJob(job_id, MaterializationJobStatus.SUCCEEDED)

    def _is_plain(self, view: Any) -> bool:
        return (
            isinstance(view, FeatureView)
            and isinstance(self.offline_store, NextbuyOfflineStore)
            and isinstance(self.online_store, NextbuyOnlineStore)
            and self.repo_config.online_store.redis_type != RedisType.redis_cluster
            and view.batch_source is not None
            and view.online
            and not view.offline
            and not getattr(view, "feature_transformation", None)
            and not getattr(view, "aggregations", None)
            and not getattr(view, "source_views", None)
        )

    def load(self, registry: BaseRegistry, task: MaterializationTask) -> None:
        """Load a plain view's rows of the task's dates, and remove those that left its table.

        Raises:
            NextbuyError: the source, a value or Redis refuses.
        """
        view, config, project = task.feature_view, self.repo_config, task.project
        client = cast(NextbuyOnlineStore, self.online_store).client(config)
        rows = _ViewRows(config, view, [registry.get_entity(n, project) for n in view.entities])
        progress: Callable[[None], Any] = task.tqdm_builder  # type: ignore[assignment]
        table = loaded_table(view.batch_source, rows.layout, rows.timestamp)
        with progress(None) as bar:
            count = removed = 0

            def advance(rows: int) -> None:
                nonlocal count
                count += rows
                bar.update(rows)

            if table is not None:
                settings = store_settings()
                record = LoadRecord(client, project, rows.layout.name)
                versions = None if self.search_redis else record.versions(settings)
                copy = retain(settings, view.name, table.folder, table.manifest)
                record.add(copy)
                kept = partial(self.rows_kept, view.name, list(table.keys))
                if versions is None:
                    removed = _remove_strays(client, config, rows.layout, table, kept())
                else:
                    with duckdb_connection(settings) as connection:
                        left = rows_that_left(connection, table, versions, kept)
                    if left.num_rows:
                        removed = _remove(client, config, rows.layout, left)
                        # A key may have an older row, from a day that did not change.
                        older = rows.latest(EPOCH, task.end_time, left)
                        write(client, config, rows.layout, older)
            write(client, config, rows.layout, rows.latest(task.start_time, task.end_time), advance)
            if table is not None:
                record.replace(copy)
        if removed:
            print(f"{view.name}: {removed:,} rows that the table has no more removed from Redis")
        self.loads[view.name] = Load(count, removed)


class _ViewRows:
    """Reads a view's latest rows, encoded for Redis."""

    def __init__(self, config: RepoConfig, view: FeatureView, entities: list[Any]) -> None:
        self._config = config
        self._source: DataSource = view.batch_source  # type: ignore[assignment] # _is_plain saw one
        join_keys, self._features, self.timestamp, created = _get_column_names(view, entities)
        self._join_keys = [key for key in join_keys if key != DUMMY_ENTITY_ID]
        self._created = created or None
        self.layout = redis_layout(config, view)

    def latest(
        self, start: datetime, end: datetime, only: pa.Table | None = None
    ) -> Iterator[EncodedRows]:
        """Of each key, or of each in `only`, the latest row between the dates."""
        mapping = self._source.field_mapping or {}
        if only is not None:
            only = only.select([mapping.get(key, key) for key in self._join_keys])
        job = NextbuyOfflineStore.pull_latest_from_table_or_query(
            config=self._config,
            data_source=self._source,
            join_key_columns=self._join_keys,
            feature_name_columns=self._features,
            timestamp_field=self.timestamp,
            created_timestamp_column=self._created,
            start_date=start,
            end_date=end,
            only=only,
        )
        timestamp = mapping.get(self.timestamp, self.timestamp)
        for batch in job.to_reader(BATCH_ROWS):
            names = [mapping.get(name, name) for name in batch.schema.names]
            table = pa.Table.from_batches([batch]).rename_columns(names)
            yield rows_from_arrow(self._config, self.layout, table, timestamp)


def stray_rows(
    client: redis.Redis,
    config: RepoConfig,
    layout: RedisLayout,
    table: LoadedTable,
    kept: pa.Table | None,
) -> pa.Table:
    """Rows of a view in Redis whose key has no such row, nor a later one, in its table.

    All of Redis is searched. `kept`: as in `NextbuyEngine.rows_kept`.

    Returns:
        `values`, `us`: as `stored_rows`.
    """
    stored = stored_rows(client, config, layout)
    with duckdb_connection(store_settings()) as connection:
        expected = connection.sql(table.latest(table.files())).to_arrow_table()
    place = pc.index_in(stored["values"], _values(layout, expected))
    latest = expected["us"].take(place)
    strays = stored.filter(pc.fill_null(pc.less(latest, stored["us"]), True))
    if kept is not None:
        spared = pc.is_in(_dated(strays["values"], strays["us"]), _dated_rows(layout, kept))
        strays = strays.filter(pc.invert(spared))
    return strays


def _remove_strays(
    client: redis.Redis,
    config: RepoConfig,
    layout: RedisLayout,
    table: LoadedTable,
    kept: pa.Table | None,
) -> int:
    strays = stray_rows(client, config, layout, table, kept)
    removed = remove(client, config, layout, strays["values"].to_pylist(), strays["us"].to_numpy())
    prefixes = former_prefixes(client, config, layout)
    return removed + sum(remove_prefix(client, config.project, prefix) for prefix in prefixes)


def _remove(client: redis.Redis, config: RepoConfig, layout: RedisLayout, left: pa.Table) -> int:
    values = _values(layout, left).to_pylist()
    return remove(client, config, layout, values, left["us"].to_numpy())


def _values(layout: RedisLayout, rows: pa.Table) -> pa.BinaryArray:
    columns = [rows[name].combine_chunks() for name, _ in layout.join_keys]
    return key_values(columns, [kind for _, kind in layout.join_keys])


def _dated_rows(layout: RedisLayout, rows: pa.Table) -> pa.BinaryArray:
    return _dated(_values(layout, rows), rows["us"])


def _dated(values: Any, us: pa.ChunkedArray) -> pa.BinaryArray:
    """A key and its time as one value."""
    times = np.ascontiguousarray(us.to_numpy(), "<i8").view(np.uint8)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return joined([rows_of_bytes(times, 8), values], len(values))
