"""What depends on the request: alike for history and for the service, and blind to the future."""

import runpy
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from feast import FeatureStore
from feast.on_demand_feature_view import OnDemandFeatureView
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st

from nextbuy.features import TABLES
from nextbuy.features.request_features import FEATURES, NAME, REQUEST, at_request
from nextbuy.settings import PROJECT, Settings
from nextbuy.stores.online.reader import OnlineReader
from nextbuy.stores.online.redis_server import running_redis
from nextbuy.times import DAY, HOUR, SECOND
from tests.nextbuy.histories import START, computed, event, histories
from tests.nextbuy.test_incremental import build, publish

BEGUN = START // SECOND
NAMES = [feature.name for feature in FEATURES]


@pytest.fixture
def declared(tmp_path, monkeypatch):
    """What the repo declares over an empty data folder."""
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path / "data"))
    return runpy.run_path(str(PROJECT / "feature_repo" / "definitions.py"))


def test_values():
    found = at_request(
        {
            "request_seconds": [BEGUN + 3 * 86_400 + 7200, BEGUN, None],
            "shown_price": [900, None, 900],
            "last_event_seconds": [BEGUN, BEGUN + 5, BEGUN],
            "price": [1000, 1000, 0],
        }
    )
    assert found == {
        "seconds_since_last_event": [3 * 86_400 + 7200, 0, None],
        "request_hour": [2, 0, None],
        "request_weekday": [3, 0, None],  # 2024-01-01 was a Monday
        "rate_price_now": [0.9, None, None],
    }


def test_a_log_without_prices_leaves_out_what_needs_them():
    found = at_request({"request_seconds": [BEGUN], "shown_price": [1], "last_event_seconds": [1]})
    assert set(NAMES) - set(found) == {"rate_price_now"}


def test_the_registry_says_what_the_definitions_say(declared):
    view = declared["at_request_view"]
    assert [f.name for f in view.features] == NAMES
    assert view.tags == {f.name: f.description for f in FEATURES}
    assert {p.name for p in declared["request_context"].feature_view_projections} == {NAME}
    model = declared["next_session_purchase"].feature_view_projections
    assert NAME not in {projection.name for projection in model}


@how(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(events=histories(), data=st.data())
def test_no_on_demand_view_knows_the_future(declared, events, data):
    """Whatever on-demand views the repo declares: they read tables as of the moment asked for."""
    asked_us = data.draw(st.sampled_from(sorted({e["event_us"] for e in events})))
    request = {"request_seconds": asked_us // SECOND, "shown_price": 500}
    views = [v for v in declared.values() if isinstance(v, OnDemandFeatureView)]
    assert views
    known = [e for e in events if e["event_us"] <= asked_us]
    for view in views:
        sources = {p.name for p in view.source_feature_view_projections.values()}
        tables = [table for table in TABLES if table.name in sources]
        assert {table.name for table in tables} == sources, "reads what is not a feature table"
        one, other = (latest(computed(seen, tables), asked_us) for seen in (events, known))
        for pair in {(user, item) for user in ("u1", "u2", "a1") for item in ("i1", "i2", "i3")}:
            answers = [
                view.feature_transformation.udf(columns(values, tables, pair, request))
                for values in (one, other)
            ]
            assert answers[0] == answers[1], (view.name, pair)


def latest(found, asked_us):
    """Table -> key -> values as of a moment."""
    return {
        name: {key[:-1]: rows[key] for key in sorted(rows) if key[-1] <= asked_us}
        for name, rows in found.items()
    }


def columns(values, tables, pair, request):
    by_key = dict(zip(("user_id", "item_id"), pair, strict=True))
    row = dict(request)
    for table in tables:
        key = tuple(by_key[name] for name in table.keys)
        row |= values.get(table.name, {}).get(key, dict.fromkeys(f.name for f in table.features))
    return {name: [value] for name, value in row.items()}


def test_history_and_service_give_the_same(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path))
    monkeypatch.delenv("REDIS_URL", raising=False)
    data = Settings(threads=1)
    events = [
        event("u1", 2 * HOUR, "view", "i1", price=1000),
        event("u1", DAY + 2 * HOUR, "view", "i2", price=300),
        event("u2", DAY + 3 * HOUR, "view", "i1", price=800),
        event("u2", 2 * DAY + HOUR, "view", "i3", price=800),
    ]
    publish(data, events)
    build(data)
    store = FeatureStore(repo_path=str(data.feature_repo))
    repo = runpy.run_path(str(PROJECT / "feature_repo" / "definitions.py"))
    store.apply([*repo["entities"].values(), *repo["views"].values(), repo["at_request_view"],
                 repo["request_context"]])  # fmt: skip
    now = datetime.fromtimestamp(BEGUN, UTC) + timedelta(days=2, hours=5)
    asked = {
        "user_id": ["u1", "u2", "u1", "new"],
        "item_id": ["i1", "i1", "i3", "i2"],
        "request_seconds": [int(now.timestamp())] * 4,
        "shown_price": [900, 800, 100, None],
    }
    service = store.get_feature_service("request_context")
    history = store.get_historical_features(
        pd.DataFrame(asked).assign(event_timestamp=now).astype({"shown_price": "Int64"}),
        service,
        full_feature_names=True,
        filter_by_created_timestamp=True,
    ).to_arrow()
    wanted = {f"{NAME}__{name}": history[f"{NAME}__{name}"].to_pylist() for name in NAMES}
    assert wanted == {
        f"{NAME}__seconds_since_last_event": [27 * 3600, 4 * 3600, 27 * 3600, None],
        f"{NAME}__request_hour": [5] * 4,
        f"{NAME}__request_weekday": [2] * 4,
        f"{NAME}__rate_price_now": [900 / 800, 1.0, None, None],
    }
    with running_redis(data):
        store.materialize(datetime.fromtimestamp(BEGUN, UTC), now)
        block = OnlineReader(store, service).read(asked)
        assert {name: block[name].to_pylist() for name in wanted} == wanted
        feast = store.get_online_features(service, asked).to_dict()
        assert {f"{NAME}__{name}": feast[name] for name in NAMES} == wanted


def test_a_request_is_named_by_what_the_view_asks_for(declared):
    asked = {field.name for field in declared["request"].schema}
    assert asked == set(REQUEST)
