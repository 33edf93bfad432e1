"""The model's features by Feast's own Spark stores, beside ours.

A file of its own, for a process of its own: Spark's workers keep the environment in which the first
session of a process was started, and with it the data folder.
"""

import runpy
import sys
from datetime import UTC, datetime, timedelta

import pandas as pd
from feast import FeatureStore

from nextbuy.contract import FEATURE_SERVICE
from nextbuy.settings import PROJECT, Settings
from nextbuy.stores.online.redis_server import connect, running_redis
from tests.nextbuy.test_incremental import build, publish
from tests.nextbuy.test_spark import history, pytestmark  # noqa: F401 (skips without Spark, as there)

PROFILE = PROJECT / "configs" / "profiles" / "spark.yaml"
PAIRS = pd.DataFrame(
    [
        (f"u{u}", f"i{i}", datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day))
        for u in (0, 1, 2, 9)
        for i in (0, 3)
        for day in (0.2, 3, 20, 41)
    ],
    columns=["user_id", "item_id", "event_timestamp"],
)


def store_of(data, profile=None):
    """The repo as it is declared under a profile, applied."""
    store = FeatureStore(repo_path=str(data.feature_repo), fs_yaml_file=profile)
    repo = runpy.run_path(str(PROJECT / "feature_repo" / "definitions.py"))
    store.apply([*repo["entities"].values(), *repo["views"].values(), repo[FEATURE_SERVICE]])
    return store


def features_of(store):
    found = store.get_historical_features(
        PAIRS, store.get_feature_service(FEATURE_SERVICE), full_feature_names=True
    ).to_df()
    rows = found.sort_values(["user_id", "item_id", "event_timestamp"]).reset_index(drop=True)
    return {
        name: [None if pd.isna(value) else value for value in rows[name]]
        for name in sorted(rows)
        if "__" in name
    }


def test_feast_on_spark_answers_as_our_stores_do(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path))
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.delenv("FEAST_FS_YAML_FILE_PATH", raising=False)
    data = Settings(threads=1)
    publish(data, history())
    build(data)
    ours = store_of(data)
    wanted = features_of(ours)
    asked = {"user_id": [f"u{u}" for u in range(5)]}
    user = [f"user:{field.name}" for field in ours.get_feature_view("user").features]
    begin, end = (datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=day) for day in (0, 60))
    with running_redis(data):
        ours.materialize(begin, end, ["user"])
        served = ours.get_online_features(user, asked).to_dict()

        monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(PROFILE))
        monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
        spark = store_of(data, PROFILE)
        assert features_of(spark) == wanted
        assert any(value is not None for value in wanted["item__n_users_30d"])

        connect(data).flushall()
        spark.materialize(begin, end, ["user"])
        assert spark.get_online_features(user, asked).to_dict() == served
    assert (data.data / "registry-spark.db").exists()
