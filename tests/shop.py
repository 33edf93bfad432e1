"""What small shops of the tests share: environment, published events, Feast objects, champion."""

import os
from contextlib import contextmanager
from pathlib import Path

from nextbuy.connection import duckdb_connection
from nextbuy.contract import CHAMPION, REGISTERED_MODEL
from nextbuy.events import EVENT_ORDER, EVENT_SCHEMA, EventType
from nextbuy.settings import Settings
from nextbuy.versioned_table import new_version

OPTIONAL_COLUMNS = tuple(EVENT_SCHEMA.names[5:])
"""Of canonical events: what not every log has."""


@contextmanager
def environment(folder: Path, **more: str):
    """The environment of a project in `folder`, which servers inherit; undone afterwards."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    before = dict(os.environ)
    for name in ("REDIS_URL", "MLFLOW_TRACKING_URI", "NEXTBUY_CONFIG"):
        os.environ.pop(name, None)
    os.environ.update(
        {
            "NEXTBUY_DATA": str(folder / "data"),
            "BENTOML_HOME": str(folder / "bentoml"),
            "NEXTBUY_SERVICE_LOG_SECONDS": "0.2",
            **more,
        }
    )
    try:
        yield Settings()
    finally:
        os.environ.clear()
        os.environ.update(before)


def publish_events(table, settings, columns=OPTIONAL_COLUMNS):
    """Publish an Arrow table of canonical events, from a log that has these optional columns."""
    info = {"source": "test", "provides": sorted({*EventType, *columns})}
    with (
        duckdb_connection(settings) as connection,
        new_version(settings.events, str(table.num_rows), info) as version,
    ):
        connection.register("table_of_events", table)
        version.write_days(connection, "table_of_events", "event_time", EVENT_ORDER)


def entity(name="user_id", kind=None):
    """A Feast entity whose join key has its name; a string unless `kind` says otherwise."""
    from feast import Entity, ValueType

    return Entity(name=name, join_keys=[name], value_type=kind or ValueType.STRING)


def feature_view(name, path, entities, fields, ttl=None, **source):
    """A Feast view on a Parquet table; `fields` are its features and join keys."""
    from feast import FeatureView, FileSource

    source = {"timestamp_field": "event_timestamp", **source}
    return FeatureView(
        name=name,
        entities=entities,
        ttl=ttl,
        schema=fields,
        source=FileSource(name=f"{name}_source", path=str(path), **source),
    )


def register(settings, booster, contract, alias=CHAMPION):
    """Log and register a booster as training does; returns its version."""
    import mlflow

    settings.data.joinpath("mlflow").mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(settings.tracking_uri)
    if mlflow.get_experiment_by_name("tests") is None:
        mlflow.create_experiment("tests", (settings.data / "mlflow" / "artifacts").as_uri())
    mlflow.set_experiment("tests")
    flavor = mlflow.xgboost if contract.family == "xgboost" else mlflow.lightgbm
    with mlflow.start_run():
        logged = flavor.log_model(
            booster,
            name="model",
            registered_model_name=REGISTERED_MODEL,
            metadata={"contract": contract.model_dump(mode="json")},
            pip_requirements=[],
        )
    version = str(logged.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias(REGISTERED_MODEL, alias, version)
    return version
