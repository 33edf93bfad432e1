"""Materialization beside live events: it goes on their record, and what they wrote stays in Redis.

`batch_engine: {type: nextbuy.live.engine.LiveEngine}` in feature_store.yaml.
"""

import pyarrow as pa
from feast.infra.common.materialization_job import MaterializationTask
from feast.infra.registry.base_registry import BaseRegistry

from nextbuy.live.event_store import LiveStore
from nextbuy.live.write_history import live_rows, recorded_materialization
from nextbuy.stores import store_settings
from nextbuy.stores.compute_engine import NextbuyEngine, NextbuyEngineConfig
from nextbuy.times import to_us
from nextbuy.versioned_table import manifest


class LiveEngineConfig(NextbuyEngineConfig):
    """The `batch_engine` section of feature_store.yaml."""

    type: str = "nextbuy.live.engine.LiveEngine"


class LiveEngine(NextbuyEngine):
    """The stores' engine, which records its loads for parity.

    A row that left its table stays in Redis if the live worker wrote it.
    """

    def load(self, registry: BaseRegistry, task: MaterializationTask) -> None:
        """As the stores' engine; a feature table of the data folder goes on the record."""
        settings, view = store_settings(), task.feature_view.name
        if manifest(settings.features / view) is None:
            super().load(registry, task)
            return
        with recorded_materialization(settings, view, to_us(task.end_time)) as count_removed:
            super().load(registry, task)
            count_removed(self.loads[view].removed)

    def rows_kept(self, view: str, keys: list[str]) -> pa.Table | None:
        """The rows of the record of live writes: their events are in no table yet, or again."""
        with LiveStore(store_settings()) as store:
            batches = [
                rows.select([*keys, "event_timestamp"]).rename_columns([*keys, "us"])
                for rows in live_rows(store, view)
                if set(keys) <= set(rows.column_names)
            ]
        if not batches:
            return None
        rows = pa.concat_tables(batches)
        us = rows["us"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
        return rows.set_column(len(keys), "us", us)
