"""A shop whose log becomes shorter: verbs go on, Redis forgets, parity knows."""

import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
import redis
from feast import FeatureStore

from monitoring.parity import MOMENT, RedisHistory
from monitoring.strays import stray_keys
from nextbuy.cli import serving
from nextbuy.contract import FEATURE_SERVICE, ModelContract
from nextbuy.errors import NextbuyError
from nextbuy.events import EVENT_SCHEMA
from nextbuy.live.event_store import EventRow, LiveStore, now_us
from nextbuy.live.worker import Worker
from nextbuy.settings import PROJECT, Settings
from nextbuy.shop import LabelConfig, SessionConfig
from nextbuy.stores.online.keys import hash_key
from nextbuy.stores.online.redis_server import running_redis
from nextbuy.versioned_table import manifest
from tests.shop import environment, publish_events
from tests.tables import build_features, build_labels, build_sessions

START = datetime(2024, 1, 1, 10, tzinfo=UTC)


def event(day, user, item, kind="view"):
    return {
        "event_id": f"{day}-{user}-{item}-{kind}",
        "user_id": user,
        "event_time": START + timedelta(days=day),
        "event_type": kind,
        "item_id": item,
        "category": f"of {item}",
        "price": 100,
    }


LONG = [
    event(0, "ann", "tea"),
    event(1, "ben", "tea", "add_to_cart"),
    event(5, "ann", "cup"),
    event(8, "cat", "pot"),
    event(9, "ben", "tea"),
]
SHORT = LONG[:2]  # without cat and the newest days; ann and ben have older rows


def build(settings, events):
    published = manifest(settings.events)
    if published and published.rows == len(events):
        return
    table = pa.Table.from_pylist(events, schema=EVENT_SCHEMA)
    publish_events(table, settings)
    build_sessions(settings, SessionConfig())
    build_labels(settings, LabelConfig())
    build_features(settings)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with environment(tmp_path_factory.mktemp("shrinking")) as settings:
        build(settings, LONG)
        serving.apply()
        with running_redis(settings) as url, redis.Redis.from_url(url) as client:
            yield settings, client


@pytest.fixture
def loaded(shop):
    """The long log, as it was loaded; without live events."""
    settings, client = shop
    client.flushall()
    (settings.live / "events.sqlite").unlink(missing_ok=True)
    build(settings, LONG)
    serving.materialize()
    return settings, client


def entities(client):
    """Which shoppers, items and categories have a hash in Redis."""
    parts = filter(None, map(hash_key, client.scan_iter()))
    return {tuple(raw.decode() for _, raw in part.values) for part in parts}


BEFORE = {
    ("ann",), ("ben",), ("cat",), ("tea",), ("cup",), ("pot",), ("of tea",), ("of cup",),
    ("of pot",), ("tea", "ann"), ("tea", "ben"), ("cup", "ann"), ("pot", "cat"),
}  # fmt: skip
AFTER = {("ann",), ("ben",), ("tea",), ("of tea",), ("tea", "ann"), ("tea", "ben")}


def by_verb(capsys):
    capsys.readouterr()
    serving.materialize()
    printed = capsys.readouterr()
    assert "\x1b" not in printed.out + printed.err
    assert re.search(r"^  user +\d+ rows loaded, 3 removed that left the table$", printed.out, re.M)
    assert printed.err == ""
    assert len(printed.out.splitlines()) == 7 + 2  # a line a view, the moment, what next
    serving.materialize()
    assert "up to date" in capsys.readouterr().out


def by_feast(_):
    command = ["materialize", "2020-01-01T00:00:00", "2024-03-01T00:00:00"]
    feast = [sys.executable, "-m", "feast.cli.cli", "-c", str(PROJECT / "feature_repo")]
    done = subprocess.run([*feast, *command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "user: 3 rows that the table has no more removed from Redis" in done.stdout


@pytest.mark.parametrize("materialize", [by_verb, by_feast])
def test_keys_that_left_the_tables_leave_redis(loaded, capsys, materialize):
    settings, client = loaded
    assert entities(client) == BEFORE
    packed = len(list(client.scan_iter(b"nb*")))
    build(settings, SHORT)
    materialize(capsys)
    assert entities(client) == AFTER
    assert len(list(client.scan_iter(b"nb*"))) < packed
    left = {
        key: client.dump(key) for key in client.scan_iter() if hash_key(key) or key[:2] == b"nb"
    }
    client.flushall()
    serving.materialize()
    assert {key: client.dump(key) for key in left} == left  # what a first load gives
    assert stray_keys(settings) == {}


def test_what_live_events_wrote_stays(loaded):
    settings, client = loaded
    newest = int((START + timedelta(days=10)).timestamp() * 1e6)
    with LiveStore(settings) as store:
        store.append(
            [
                EventRow("live-1", "cat", newest, "view", "pot", "of pot"),
                EventRow("live-2", "dan", newest, "view", "tea", "of tea"),
            ],
            now_us(),
        )
    worker = Worker(settings)
    assert worker.step() == 2
    worker.store.close()
    live = {("cat",), ("dan",), ("pot", "cat"), ("tea", "dan")}
    assert entities(client) == BEFORE | live
    assert sessions_of("cat") == 2
    build(settings, SHORT)
    serving.materialize()
    assert entities(client) == AFTER | live
    assert stray_keys(settings) == {}
    serving.materialize(full=True)
    assert entities(client) == AFTER | live
    worker = Worker(settings)  # it starts again when what is published changed
    worker.step()
    worker.store.close()
    assert sessions_of("cat") == 1  # without the session that is in no log any more


def sessions_of(user):
    store = FeatureStore(repo_path=str(Settings().feature_repo))
    (count,) = store.get_online_features(["user:n_sessions"], [{"user_id": user}]).to_dict()[
        "n_sessions"
    ]
    return count


def test_parity_knows_what_left(loaded, tmp_path):
    settings, _ = loaded
    first = now_us()
    build(settings, SHORT)
    serving.materialize()
    rows = pa.table(
        {
            "user_id": ["ann", "cat", "ben"] * 2,
            "item_id": ["tea", "pot", "tea"] * 2,
            "event_timestamp": pa.array([first] * 3 + [now_us()] * 3, MOMENT),
        }
    )
    card = ModelContract(
        feature_service=FEATURE_SERVICE,
        features=("user__n_sessions", "item__n_views"),
        categories={},
        family="xgboost",
    )
    with LiveStore(settings) as store:
        retrieved = RedisHistory(settings, store, tmp_path).retrieve(card, rows)
    assert retrieved["user__n_sessions"].to_pylist() == [2, 1, 2, 1, None, 1]
    assert retrieved["user_id"].to_pylist() == ["ann", "cat", "ben"] * 2
    assert retrieved["item__n_views"].to_pylist()[1::3] == [1, None]


def test_strays_are_counted_and_removed(loaded, capsys):
    from nextbuy.cli.live import parity

    settings, client = loaded
    key = next(k for k in client.scan_iter() if (p := hash_key(k)) and p.values == ((2, b"cat"),))
    stray = key.replace(b"cat", b"eve")
    client.restore(stray, 0, client.dump(key))
    assert stray_keys(settings) == {"last_event": 1, "recent_items": 1, "session": 1, "user": 1}
    with pytest.raises(NextbuyError):
        parity()
    assert (
        "user: 1 keys in Redis that no table has and no live event wrote" in capsys.readouterr().out
    )
    serving.materialize(full=True)
    assert stray_keys(settings) == {}
    assert entities(client) == BEFORE
    assert "user " in (out := capsys.readouterr().out)
    assert "1 removed that left the table" in out


def test_after_teardown_everything_is_loaded_again(loaded, capsys):
    settings, client = loaded
    FeatureStore(repo_path=str(settings.feature_repo)).teardown()
    assert entities(client) == set()
    serving.apply()
    serving.materialize()
    assert entities(client) == BEFORE
