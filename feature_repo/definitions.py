"""What Feast serves: one feature view per feature table, one feature service for the model.

Names, types and descriptions come from `nextbuy.features`. A feature that the ingested log cannot
support is not declared.
"""

from feast import Entity, FeatureService, FeatureView, Field, FileSource, Project, ValueType
from feast.types import Array, Bool, FeastType, Float64, Int64, String

from nextbuy.contract import FEATURE_SERVICE
from nextbuy.features import TABLES, FeatureTable
from nextbuy.settings import Settings
from nextbuy.storage import manifest

SETTINGS = Settings()

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


def _given() -> list[FeatureTable]:
    sessions = manifest(SETTINGS.sessions)
    if sessions is None:  # nothing ingested yet: everything there could be
        return list(TABLES)
    given = [table.given(sessions.info["provides"]) for table in TABLES]
    return [table for table in given if table.features]


def _view(table: FeatureTable) -> FeatureView:
    features = [
        Field(
            name=feature.name,
            dtype=TYPES[feature.dtype],
            description=feature.description,
            tags=feature.tags,
        )
        for feature in table.features
    ]
    return FeatureView(
        name=table.name,
        description=table.description,
        entities=[entities[key] for key in table.keys],
        schema=[*(Field(name=key, dtype=String) for key in table.keys), *features],
        source=FileSource(
            name=f"{table.name}_table",
            path=str(SETTINGS.features / table.name),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
    )


project = Project(name="nextbuy", description="Will this shopper buy this item next time?")

tables = _given()

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

# Feast collects the objects that are names of this module.
globals().update({f"{name}_entity": entity for name, entity in entities.items()})
globals().update({f"{name}_view": view for name, view in views.items()})
