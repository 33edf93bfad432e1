"""A Feast repository in the style of Feast's tutorials, by Feast's own commands.

Nothing in it knows of us. It runs on stock stores, then on ours with only the `type` lines of
feature_store.yaml changed, and must answer the same.
"""

import sys
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from click.testing import CliRunner
from fastapi.testclient import TestClient
from feast import FeatureStore, feature_server, ui_server
from feast.cli.cli import cli

DEFINITIONS = """
from datetime import timedelta

import pandas as pd
from feast import (
    Entity, FeatureService, FeatureView, Field, FileSource, Project, PushSource, RequestSource,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Float64, Int64

project = Project(name="rides", description="Rides of a taxi company")
driver = Entity(name="driver", join_keys=["driver_id"])

trips = FileSource(
    name="trips",
    path="data/trips.parquet",
    timestamp_field="event_timestamp",
    created_timestamp_column="created",
)
hourly = FeatureView(
    name="hourly",
    entities=[driver],
    ttl=timedelta(days=1),
    schema=[
        Field(name="accepted", dtype=Float32, description="Share of rides taken"),
        Field(name="rides", dtype=Int64),
    ],
    online=True,
    source=trips,
    tags={"team": "rides"},
)
tip = RequestSource(name="tip", schema=[Field(name="tip", dtype=Int64)])


@on_demand_feature_view(
    sources=[hourly, tip],
    schema=[Field(name="rides_and_tip", dtype=Float64)],
)
def with_tip(inputs: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({"rides_and_tip": (inputs["rides"] + inputs["tip"]).astype("float64")})


pushed = PushSource(name="pushed", batch_source=trips)
fresh = FeatureView(
    name="fresh",
    entities=[driver],
    ttl=timedelta(days=1),
    schema=[Field(name="accepted", dtype=Float32), Field(name="rides", dtype=Int64)],
    online=True,
    source=pushed,
)
first = FeatureService(name="first", features=[hourly[["rides"]], with_tip])
second = FeatureService(name="second", features=[fresh])
"""

STOCK = """
project: rides
provider: local
registry: data/registry.db
offline_store:
  type: duckdb
online_store:
  type: sqlite
  path: data/online.db
batch_engine:
  type: local
entity_key_serialization_version: 3
"""
OURS = STOCK
for stock_type, our_type in {
    "type: duckdb": "type: nextbuy.stores.offline.NextbuyOfflineStore",
    "type: sqlite\n  path: data/online.db": "type: nextbuy.stores.online.NextbuyOnlineStore",
    "type: local": "type: nextbuy.stores.compute_engine.NextbuyEngine",
}.items():
    OURS = OURS.replace(stock_type, our_type)


def make_repo(folder, yaml, now):
    (folder / "data").mkdir(parents=True)
    (folder / "feature_store.yaml").write_text(yaml)
    (folder / "definitions.py").write_text(DEFINITIONS)
    hours = [now - timedelta(hours=hour) for hour in range(72)]
    pd.DataFrame(
        {
            "driver_id": [1001 + n % 4 for n in range(288)],
            "event_timestamp": [hours[n // 4] for n in range(288)],
            "created": [hours[n // 4] + timedelta(minutes=1) for n in range(288)],
            "accepted": [(n * 7 % 100) / 100 for n in range(288)],
            "rides": [n * 13 % 50 for n in range(288)],
        }
    ).astype({"accepted": "float32", "rides": "int64"}).assign(
        event_timestamp=lambda rows: rows["event_timestamp"].astype("datetime64[us, UTC]"),
        created=lambda rows: rows["created"].astype("datetime64[us, UTC]"),
    ).to_parquet(folder / "data/trips.parquet")


def feast(folder, *command):
    result = CliRunner().invoke(cli, ["-c", str(folder), *command])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def use(folder, now, monkeypatch):
    """What a tutorial does, and what came out."""
    monkeypatch.chdir(folder)  # stock reads a relative path from the folder it is called in
    # Feast imports it by this name: neither another repo's module here, nor this one afterwards.
    monkeypatch.setitem(sys.modules, "definitions", None)
    del sys.modules["definitions"]
    monkeypatch.syspath_prepend(folder)  # another repo's folder may be on the path before
    feast(folder, "apply")
    listed = feast(folder, "feature-views", "list")
    feast(folder, "materialize-incremental", now.replace(tzinfo=None).isoformat())
    store = FeatureStore(str(folder))
    asked = pd.DataFrame(
        {
            "driver_id": [1001, 1002, 1003, 9],
            "event_timestamp": [now - timedelta(hours=h, minutes=7) for h in (1, 30, 60, 1)],
            "tip": [1, 2, 3, 4],
        }
    )
    service = store.get_feature_service("first")
    history = store.get_historical_features(asked, service).to_df()
    history = history.sort_values("driver_id").reset_index(drop=True)
    rows = [{"driver_id": key, "tip": 5} for key in (1001, 1004, 9)]
    online = store.get_online_features(service, rows).to_dict()
    with TestClient(feature_server.get_app(store)) as server:  # what `feast serve` runs
        question = {"feature_service": "first", "entities": {"driver_id": [1001, 9], "tip": [5, 5]}}
        served = server.post("/get-online-features", json=question).json()["results"]
    with TestClient(ui_server.get_app(store, "rides")) as ui:  # what `feast ui` runs
        assert "<html" in ui.get("/").text
        shown = ui.get("/api/v1/feature_views", params={"project": "rides"}).json()["featureViews"]
    push = pd.DataFrame(
        {
            "driver_id": [1001],
            "event_timestamp": [now],
            "created": [now],
            "accepted": pd.array([0.5], "float32"),
            "rides": [777],
        }
    )
    store.push("pushed", push)
    pushed = store.get_online_features(
        store.get_feature_service("second"), [{"driver_id": 1001}]
    ).to_dict()
    columns = sorted(history.columns)
    return {
        "listed": sorted(listed.split()),
        "history": history[columns]
        .astype(object)
        .where(history[columns].notna(), None)
        .to_numpy()
        .tolist(),
        "online": online,
        "served": [part["values"] for part in served],
        "shown": sorted(view["spec"]["name"] for view in shown),
        "pushed": pushed,
    }


@pytest.mark.usefixtures("flushed")
def test_runs_unchanged_on_our_stores(tmp_path, monkeypatch):
    now = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    answers = []
    for name, yaml in (("stock", STOCK), ("ours", OURS)):
        make_repo(tmp_path / name, yaml, now)
        answers.append(use(tmp_path / name, now, monkeypatch))
    assert answers[0] == answers[1]
    assert answers[1]["pushed"]["rides"] == [777]
    assert answers[1]["online"]["rides"][2] is None
    assert answers[1]["shown"] == ["fresh", "hourly", "with_tip"]
