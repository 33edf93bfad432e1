"""Materialization as a stream of Arrow batches from DuckDB to Redis.

`batch_engine: {type: nextbuy.stores.compute_engine.NextbuyEngine}` in feature_store.yaml; then
`feast materialize` and `feast materialize-incremental` go through it.
"""

from collections.abc import Callable, Iterator
from typing import Any, cast

import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.common.materialization_job import MaterializationJobStatus, MaterializationTask
from feast.infra.compute_engines.local.compute import LocalComputeEngine, LocalComputeEngineConfig
from feast.infra.compute_engines.local.job import LocalMaterializationJob
from feast.infra.online_stores.redis import RedisType
from feast.infra.registry.base_registry import BaseRegistry
from feast.utils import _get_column_names

from nextbuy.stores.offline.store import NextbuyOfflineStore
from nextbuy.stores.online.encoded_rows import EncodedRows, rows_from_arrow
from nextbuy.stores.online.layout import redis_layout
from nextbuy.stores.online.store import NextbuyOnlineStore
from nextbuy.stores.online.writer import write

BATCH_ROWS = 20_000


class NextbuyEngineConfig(LocalComputeEngineConfig):
    """The `batch_engine` section of feature_store.yaml."""

    type: str = "nextbuy.stores.compute_engine.NextbuyEngine"  # type: ignore[assignment]


class NextbuyEngine(LocalComputeEngine):
    """Feast's local engine, except for plain feature views between our own two stores."""

    def __init__(self, type: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def _materialize_one(
        self, registry: BaseRegistry, task: MaterializationTask, **kwargs: Any
    ) -> LocalMaterializationJob:
        if not self._is_plain(task.feature_view):
            return super()._materialize_one(registry, task, **kwargs)
        job_id = f"{task.feature_view.name}-{task.start_time}-{task.end_time}"
        try:
            self._stream(registry, task)
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

    def _stream(self, registry: BaseRegistry, task: MaterializationTask) -> None:
        view, config = task.feature_view, self.repo_config
        source: DataSource = view.batch_source  # type: ignore[assignment] # _is_plain saw one
        entities = [registry.get_entity(name, task.project) for name in view.entities]
        join_keys, features, timestamp, created = _get_column_names(view, entities)
        job = NextbuyOfflineStore.pull_latest_from_table_or_query(
            config=config,
            data_source=source,
            join_key_columns=[key for key in join_keys if key != DUMMY_ENTITY_ID],
            feature_name_columns=features,
            timestamp_field=timestamp,
            created_timestamp_column=created or None,
            start_date=task.start_time,
            end_date=task.end_time,
        )
        layout, mapping = redis_layout(config, view), source.field_mapping or {}
        client = cast(NextbuyOnlineStore, self.online_store).client(config)
        progress: Callable[[None], Any] = task.tqdm_builder  # type: ignore[assignment]
        timestamp_name = mapping.get(timestamp, timestamp)

        def batches() -> Iterator[EncodedRows]:
            for batch in job.to_reader(BATCH_ROWS):
                names = [mapping.get(name, name) for name in batch.schema.names]
                table = pa.Table.from_batches([batch]).rename_columns(names)
                yield rows_from_arrow(config, layout, table, timestamp_name)

        with progress(None) as bar:
            write(client, config, layout, batches(), bar.update)
