"""What Feast serves: one feature view per feature table, one feature service for the model.

Beside them, an on-demand view of what depends on the request, with a service of its own. Names,
types and descriptions come from `nextbuy.features`. A feature that the ingested log cannot support
is not declared. Under a profile with Feast's Spark offline store the views read the same files
through Spark.
"""

import os
from pathlib import Path
from typing import Any

import yaml
from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    Project,
    RequestSource,
    ValueType,
)
from feast.data_source import DataSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, FeastType, Float64, Int64, String

from nextbuy.contract import FEATURE_SERVICE
from nextbuy.features import Feature, FeatureTable, request_features, supported_tables
from nextbuy.settings import Settings
from nextbuy.versioned_table import manifest

SETTINGS = Settings()

PROFILE = Path(
    os.environ.get("FEAST_FS_YAML_FILE_PATH", SETTINGS.feature_repo / "feature_store.yaml")
)
IS_SPARK = yaml.safe_load(PROFILE.read_text())["offline_store"]["type"] == "spark"

TYPES: dict[str, FeastType] = {
    "int64": Int64,
    "float64": Float64,
    "string": String,
    "boolean": Bool,
    "array<string>": Array(String),
}

DESCRIPTIONS = {
    "user_id": "A shopper, or an anonymous visitor",
    "item_id": "An item of the shop",
    "category": "A category of items",
}


def _field(feature: Feature) -> Field:
    return Field(
        name=feature.name,
        dtype=TYPES[feature.dtype],
        description=feature.description,
        tags=feature.tags,
    )


def _source(table: FeatureTable) -> DataSource:
    described: dict[str, Any] = {
        "name": f"{table.name}_table",
        "timestamp_field": "event_timestamp",
        "created_timestamp_column": "created_timestamp",
    }
    folder = SETTINGS.features / table.name
    if not IS_SPARK:
        return FileSource(path=str(folder), **described)
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

    return SparkSource(path=f"{folder}/day=*", file_format="parquet", **described)


def _view(table: FeatureTable) -> FeatureView:
    return FeatureView(
        name=table.name,
        description=table.description,
        entities=[entities[key] for key in table.keys],
        # A shopper's rows end; items and categories have a row each midnight.
        ttl=SETTINGS.shopper_ttl if "user_id" in table.keys else None,
        schema=[
            *(Field(name=key, dtype=String) for key in table.keys),
            *(_field(feature) for feature in table.features),
        ],
        source=_source(table),
    )


project = Project(name="nextbuy", description="Will this shopper buy this item next time?")

sessions = manifest(SETTINGS.sessions)
tables = supported_tables(sessions.info["provides"] if sessions else None)

entities = {
    key: Entity(
        name=key, join_keys=[key], value_type=ValueType.STRING, description=DESCRIPTIONS[key]
    )
    for key in dict.fromkeys(key for table in tables for key in table.keys)
}
views = {table.name: _view(table) for table in tables}

next_session_purchase = FeatureService(
    name=FEATURE_SERVICE,
    description="What the model reads for a shopper and an item touched in the latest session.",
    features=[views[table.name] for table in tables if table.in_model],
)

request = RequestSource(
    name="request",
    schema=[Field(name=name, dtype=Int64) for name in request_features.REQUEST],
)


@on_demand_feature_view(
    name=request_features.NAME,
    description=request_features.DESCRIPTION,
    sources=[request, *(views[t][[f]] for t, f in request_features.sources(tables).items())],
    # Feast infers the fields by a trial and needs these equal to them: descriptions go into tags.
    schema=[
        Field(name=f.name, dtype=TYPES[f.dtype]) for f in request_features.supported_by(tables)
    ],
    tags={feature.name: feature.description for feature in request_features.supported_by(tables)},
    mode="python",  # a tenth of what pandas takes on the few rows of a request
)
def at_request_view(inputs: dict[str, Any]) -> dict[str, Any]:
    """See `nextbuy.features.request_features`."""
    # Feast keeps this function by its text.
    from nextbuy.features.request_features import at_request
    from nextbuy.settings import Settings
    from nextbuy.shop import shop_settings
    from nextbuy.shop_clock import shop_clock

    return at_request(inputs, shop_clock(shop_settings(Settings()).time_zone))


request_context = FeatureService(
    name="request_context",
    description="What depends on the request: its moment, and the price that it shows.",
    features=[at_request_view],
)

# Feast declares the objects that are names of this module, not those in a dictionary: an entity or
# a feature table needs a name here. What the log cannot support is None, which Feast passes over.
user_id_entity = entities.get("user_id")
item_id_entity = entities.get("item_id")
category_entity = entities.get("category")

user_view = views.get("user")
session_view = views.get("session")
item_view = views.get("item")
category_view = views.get("category")
user_item_view = views.get("user_item")
recent_items_view = views.get("recent_items")
last_event_view = views.get("last_event")
