"""A small Feast repo for the tests of the stores."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore, Field, RepoConfig
from feast.types import Bool as Boolean
from feast.types import Float32, Float64, Int32, Int64, String

from tests.shop import entity, feature_view

START = datetime(2024, 1, 1, tzinfo=UTC)

OURS = {
    "offline_store": {"type": "nextbuy.stores.offline.NextbuyOfflineStore"},
    "batch_engine": {"type": "nextbuy.stores.compute_engine.NextbuyEngine"},
}


def at(hours):
    return START + timedelta(hours=hours)


def times(hours):
    return pa.array([None if h is None else at(h) for h in hours], pa.timestamp("us", "UTC"))


def write_table(path: Path, columns: dict, **kwargs) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **kwargs)
    return path


class Repo:
    """A Feast repo in memory, on chosen stores, with one registry file."""

    def __init__(self, folder: Path, objects, **config) -> None:
        self.store = FeatureStore(
            config=RepoConfig(
                project="shop",
                provider="local",
                repo_path=folder,
                entity_key_serialization_version=3,
                **{
                    "registry": str(folder / "registry.db"),
                    **OURS,
                    "online_store": None,
                    **config,
                },
            )
        )
        self.store.apply(objects)


def view(path, name="stats", entities=None, ttl=None, schema=None, **source):
    entities = [entity()] if entities is None else entities
    schema = schema or [Field(name="user_id", dtype=String), Field(name="value", dtype=Int64)]
    return feature_view(name, path, entities, schema, ttl, **source)


EVERY_TYPE = [
    Field(name="whole", dtype=Int64),
    Field(name="small", dtype=Int32),
    Field(name="real", dtype=Float64),
    Field(name="single", dtype=Float32),
    Field(name="flag", dtype=Boolean),
    Field(name="text", dtype=String),
]


def frame(rows, key="user_id"):
    keys, hours = zip(*rows, strict=True) if rows else ((), ())
    return pd.DataFrame(
        {key: list(keys), "event_timestamp": pd.to_datetime([at(h) for h in hours], utc=True)}
    )
