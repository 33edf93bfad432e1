"""A shop of four shoppers and a few items: real Feast registry, Redis, MLflow and boosters."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import nextbuy.telemetry  # noqa: F401
from nextbuy.contract import FEATURE_SERVICE, ModelContract
from nextbuy.versioned_table import new_version
from tests.shop import entity, feature_view

AT = datetime(2024, 5, 1, 12, tzinfo=UTC)
PRESENT = (AT + timedelta(days=1)).isoformat()
"""What the service takes for the present."""
LONG_AGO = AT - timedelta(days=30)
BRANDS = ("acme", "zen")
FEATURES = (
    "user__n_sessions",
    "session__n_events",
    "item__price",
    "item__brand",
    "user_item__n_views",
)
SAID = {"price": "Price last seen", "brand": "Brand last seen", "n_views": "Views of the item"}
UNIT = {"price": {"unit": "cents"}}
ITEMS = [f"i{number:03d}" for number in range(120)]


def contract(family="xgboost", features=FEATURES, **changes):
    fields = {
        "feature_service": FEATURE_SERVICE,
        "features": features,
        "categories": {"item__brand": BRANDS},
        "family": family,
    }
    return ModelContract(**(fields | changes))


def fitted(family, seed=0):
    """A booster that likes cheap items which were looked at often."""
    random = np.random.default_rng(seed)
    matrix = random.integers(0, 10, (2000, len(FEATURES))).astype(np.float32)
    matrix[:, 3] = random.integers(0, 2, 2000)
    matrix[random.random(matrix.shape) < 0.1] = np.nan
    wish = np.nan_to_num(matrix[:, 4]) - np.nan_to_num(matrix[:, 2]) + 2 * (matrix[:, 3] == 1)
    label = (wish + random.normal(0, 2, 2000) > 2).astype(int)
    if family == "xgboost":
        import xgboost

        kinds = ["c" if i == 3 else "q" for i in range(len(FEATURES))]
        data = xgboost.DMatrix(matrix, label, feature_types=kinds, enable_categorical=True)
        return xgboost.train({"objective": "binary:logistic", "max_depth": 4}, data, 20)
    import lightgbm

    data = lightgbm.Dataset(matrix, label, categorical_feature=[3])
    return lightgbm.train({"objective": "binary", "verbosity": -1}, data, 20)


def objects(folder="/nowhere", without=()):
    """Entities, views (on tables below `folder`) and the service that the contract names."""
    from feast import FeatureService, Field
    from feast.types import Array, Int64, String

    user, item = entity("user_id"), entity("item_id")

    def view(name, entities, schema):
        keys = [Field(name=entity.name, dtype=String) for entity in entities]
        fields = [
            Field(name=n, dtype=t, description=SAID.get(n, ""), tags=UNIT.get(n, {}))
            for n, t in schema.items()
            if f"{name}__{n}" not in without
        ]
        created = {"created_timestamp_column": "created_timestamp"}
        return feature_view(name, f"{folder}/{name}", entities, keys + fields, **created)

    views = [
        view("user", [user], {"n_sessions": Int64, "n_carts": Int64}),
        view("session", [user], {"n_events": Int64}),
        view("item", [item], {"price": Int64, "brand": String}),
        view("user_item", [user, item], {"n_views": Int64}),
    ]
    recent = view("recent_items", [user], {"item_ids": Array(String)})
    return [user, item, *views, recent, FeatureService(name=FEATURE_SERVICE, features=views)]


def rows():
    """View -> its online rows. u1 and u2 are known, i000 to i099 are.

    u2 came a day ago, too, but touched i001 so long ago that the horizon of 30 days is over.
    """
    known, stamp = ITEMS[:100], {"event_timestamp": AT, "created_timestamp": AT}
    before = {"event_timestamp": LONG_AGO, "created_timestamp": AT}
    return {
        "user": pd.DataFrame([{"user_id": u, "n_sessions": n, "n_carts": 1, **stamp}
                              for u, n in (("u1", 3), ("u2", 8))]),
        "session": pd.DataFrame([{"user_id": u, "n_events": n, **stamp}
                                 for u, n in (("u1", 5), ("u2", 2))]),
        "item": pd.DataFrame([{"item_id": i, "price": n % 10, "brand": BRANDS[n % 2], **stamp}
                              for n, i in enumerate(known)]),
        "user_item": pd.DataFrame([{"user_id": "u1", "item_id": i, "n_views": n, **stamp}
                                   for n, i in enumerate(known[:10])]
                                  + [{"user_id": "u2", "item_id": "i001", "n_views": 1, **before},
                                     {"user_id": "u2", "item_id": "i002", "n_views": 2, **stamp}]),
        "recent_items": pd.DataFrame([{"user_id": "u1", "item_ids": known[:5], **stamp},
                                      {"user_id": "u2", "item_ids": ["i002", "i001"], **stamp}]),
    }  # fmt: skip


def publish(table, frame, info=None):
    """Publish rows as nextbuy does, in one day's file."""
    with new_version(table, inputs="made here", info=info) as version:
        stamped = frame.assign(created_timestamp=AT)
        rows = pa.Table.from_pandas(stamped, preserve_index=False)
        pq.write_table(rows, version.file(AT.date()), coerce_timestamps="us")
