"""The same on Spark: every table to the byte, and what Feast's own Spark stores make of them."""

import runpy
import shutil
import sys
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec

import pandas as pd
import pytest
from feast import FeatureStore
from histories import event
from test_increment import build, publish, tables

from nextbuy.contract import FEATURE_SERVICE
from nextbuy.redis_server import connect, redis_lease
from nextbuy.sessions import DAY, HOUR, MINUTE
from nextbuy.settings import PROJECT, Settings
from nextbuy.spark import spark_engine
from nextbuy.storage import manifest

pytestmark = [
    pytest.mark.skipif(
        find_spec("pyspark") is None, reason="requirements/spark.lock not installed"
    ),
    pytest.mark.skipif(shutil.which("java") is None, reason="no java on PATH"),
]


def history():
    """Ties, a log-in with a past, a bot's burst, a session over midnight, carts and money."""
    kinds = ["view", "scroll", "add_to_cart", "remove_from_cart", "purchase", "view", "view"]
    events = [
        event(
            f"u{i % 5}",
            (0, 1, 2, 8, 31, 40)[i % 6] * DAY + i % 7 * HOUR + i % 3 * MINUTE + (i % 2) * 23 * HOUR,
            kinds[i % 7],
            f"i{i % 4}",
            category=(None, "c1", "c2")[i % 3],
            brand=(None, "b1")[i % 2],
            price=(None, 0, 999, 123_456)[i % 4],
            discount=(None, 0, 100)[i % 3],
            source_session_id=f"s{i}",
        )
        for i in range(200)
    ]
    events += [event("a1", i * MINUTE, "view", source_session_id="s1") for i in range(3)]
    events += [event("u1", HOUR, "login", source_session_id="s1")]
    events += [event("u9", 5 * DAY + i, "view", f"i{i}") for i in range(8)]
    return list({e["event_id"]: e for e in events}.values())


def test_spark_gives_the_tables_of_duckdb(tmp_path):
    data = Settings(data=tmp_path, threads=1, spark_master="local[1]")
    publish(data, history())
    build(data)
    wanted = {table: manifest(table) for table in tables(data)}
    shutil.rmtree(data.features)
    for table in (data.sessions, data.labels):
        table.unlink()
    with spark_engine(data) as run:
        build(data, run)
    for table, one in wanted.items():
        assert one.rows > 0
        assert manifest(table) == one, table.name
    assert not (data.data / "tmp" / "spark").exists()


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
    with redis_lease(data):
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
