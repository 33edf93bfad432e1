"""Redis away, slow, restarted, full; a process killed halfway; tables that do not fit."""

import asyncio
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pytest
import redis
from feast import FeatureService, Field
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64
from feast.value_type import ValueType
from redis.backoff import ExponentialWithJitterBackoff

from nextbuy.errors import NextbuyError
from nextbuy.settings import PROJECT
from nextbuy.stores import compute_engine
from nextbuy.stores.online.reader import OnlineReader
from nextbuy.stores.online.redis_server import find_redis_server
from tests.shop import entity
from tests.stores.small_repo import Repo, at, times, view, write_table
from tests.stores.test_online import (
    OURS_ONLINE,
    ROWS,
    contents,
    every_type_view,
    everything,
    materialize,
    simple,
    value_of,
)


def many(folder, count=5000):
    return simple(folder, [(f"u{i}", 1, i) for i in range(count)])


def test_full_redis(tmp_path, flushed):
    repo = Repo(tmp_path, [entity(), many(tmp_path, 30_000)], online_store=OURS_ONLINE)
    used = flushed.info("memory")["used_memory"]
    flushed.config_set("maxmemory", used + 2_000_000)
    try:
        with pytest.raises(NextbuyError, match=r"Redis took \d+ rows of .*full"):
            materialize(repo)
    finally:
        flushed.config_set("maxmemory", 0)
    rows = contents(flushed)
    assert 0 < len(rows) < 30_000
    assert {len(fields) for fields in rows.values()} == {2}  # each with value and timestamp
    materialize(repo)
    assert len(contents(flushed)) == 30_000
    assert repo.store.get_feature_view("stats").materialization_intervals


def test_key_of_another_program_in_the_way(tmp_path, flushed):
    repo = Repo(tmp_path, [entity(), many(tmp_path, 2)], online_store=OURS_ONLINE)
    materialize(repo)
    taken = next(iter(contents(flushed)))
    flushed.set(taken, "not Feast's")
    with pytest.raises(NextbuyError, match=r"no hash of Feast's. Remove .* or name another"):
        materialize(repo)
    assert flushed.get(taken) == b"not Feast's"


@pytest.mark.parametrize("first", [False, True], ids=["hashes first", "packed first"])
def test_layout_switched_on_a_filled_redis(tmp_path, flushed, first):
    service = FeatureService(name="all", features=[many(tmp_path, 3)])
    for packed in (first, not first, first):
        online = {**OURS_ONLINE, "packed": packed}
        repo = Repo(tmp_path, [entity(), many(tmp_path, 3), service], online_store=online)
        materialize(repo)
        block = OnlineReader(repo.store, "all").read({"user_id": ["u0", "u2", "u9"]})
        assert block["stats__value"].to_pylist() == [0, 2, None]


def test_connection_lost_in_the_middle(tmp_path, flushed, monkeypatch):
    repo = Repo(tmp_path, [entity(), many(tmp_path)], online_store=OURS_ONLINE)
    monkeypatch.setattr(compute_engine, "BATCH_ROWS", 1000)
    sent = []
    original = compute_engine.write

    def breaking(client, config, into, rows, progress):
        def cut(count):
            sent.append(count)
            if len(sent) == 3:
                flushed.client_kill_filter(_type="normal", skipme=True)
            progress(count)

        original(client, config, into, rows, cut)

    monkeypatch.setattr(compute_engine, "write", breaking)
    with pytest.raises(NextbuyError, match="run the same command again"):
        materialize(repo)
    assert not repo.store.get_feature_view("stats").materialization_intervals
    rows = contents(flushed)
    assert 0 < len(rows) < 5000
    assert {len(fields) for fields in rows.values()} == {2}
    monkeypatch.setattr(compute_engine, "write", original)
    materialize(repo)
    assert len(contents(flushed)) == 5000


def test_column_of_another_type(tmp_path, flushed):
    path = write_table(
        tmp_path / "t.parquet",
        {"user_id": ["a", "b"], "event_timestamp": times([1, 2]), "value": [1.0, 1.5]},
    )
    repo = Repo(tmp_path, [entity(), view(path)], online_store=OURS_ONLINE)
    with pytest.raises(NextbuyError, match=r"'value' is double, but .* declares INT64"):
        materialize(repo)
    assert contents(flushed) == {}
    write_table(
        tmp_path / "t.parquet",
        {"user_id": ["a"], "event_timestamp": times([1]), "value": ["12"]},
    )
    with pytest.raises(NextbuyError, match="text is not turned into numbers"):
        materialize(repo)


def test_missing_column(tmp_path, flushed):
    path = write_table(tmp_path / "t.parquet", {"user_id": ["a"], "event_timestamp": times([1])})
    repo = Repo(tmp_path, [entity(), view(path)], online_store=OURS_ONLINE)
    with pytest.raises(NextbuyError, match="no column 'value'"):
        materialize(repo)


def test_key_that_cannot_be_looked_up(tmp_path, flushed):
    path = write_table(
        tmp_path / "t.parquet",
        {"user_id": [1.5], "event_timestamp": times([1]), "value": pa.array([1])},
    )
    user = entity("user_id", ValueType.DOUBLE)
    schema = [Field(name="user_id", dtype=Float64), Field(name="value", dtype=Int64)]
    repo = Repo(
        tmp_path, [user, view(path, entities=[user], schema=schema)], online_store=OURS_ONLINE
    )
    with pytest.raises(NextbuyError, match="'user_id' is of type DOUBLE"):
        materialize(repo)


def test_partial_push_into_the_packed_layout(tmp_path, flushed):
    path = everything(tmp_path, ROWS)
    online = {**OURS_ONLINE, "packed": True}
    repo = Repo(tmp_path, [entity(), every_type_view(path)], online_store=online)
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val="a")])
    with pytest.raises(NextbuyError, match="whole rows"):
        repo.store.provider.online_write_batch(
            repo.store.config,
            repo.store.get_feature_view("stats"),
            [(key, {"whole": Value(int64_val=1)}, at(1), None)],
            None,
        )


class Server:
    """A redis-server of the test's own, to be stopped and started."""

    def __init__(self, folder):
        self.socket = folder / "r.sock"
        self.command = [
            find_redis_server(), "--port", "0", "--unixsocket", self.socket, "--dir", folder,
            "--save", "", "--logfile", folder / "redis.log",
        ]  # fmt: skip
        self.client = redis.Redis(unix_socket_path=str(self.socket))
        self.online = {
            **OURS_ONLINE,
            "connection_string": f"localhost:0,unix_socket_path={self.socket},socket_timeout=0.5",
        }

    def start(self):
        self.process = subprocess.Popen([str(part) for part in self.command])
        while True:
            try:
                return self.client.ping()
            except redis.ConnectionError:
                time.sleep(0.01)

    def stop(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def server(tmp_path_factory, data_folder):
    found = Server(tmp_path_factory.mktemp("r"))
    found.start()
    yield found
    found.stop()


def served(folder, online):
    stats = simple(folder, [("a", 1, 1), ("b", 2, 2)])
    repo = Repo(
        folder,
        [entity(), stats, FeatureService(name="all", features=[stats])],
        online_store=online,
    )
    return repo, OnlineReader(repo.store, "all")


def every_way_to_read(repo, reader):
    """Feast's read, sync and async, and ours: functions that give the value of `a`."""
    asked = ["stats:value"], [{"user_id": "a"}]

    def feast_async():
        return asyncio.run(repo.store.get_online_features_async(*asked)).to_dict()["value"][0]

    def ours():
        return reader.read({"user_id": ["a"]})["stats__value"].to_pylist()[0]

    return [lambda: value_of(repo), feast_async, ours]


@pytest.mark.parametrize("packed", [False, True])
def test_redis_stopped_slow_and_started_anew(tmp_path, server, packed, monkeypatch):
    # redis-py tries three times more, as it does for users, but without its pauses of seconds.
    monkeypatch.setattr(ExponentialWithJitterBackoff, "compute", lambda self, failures: 0)
    repo, _ = served(tmp_path, {**server.online, "packed": packed})
    materialize(repo)

    def ways():  # a loop of asyncio's own for each: its connections do not outlive it
        fresh, reader = served(tmp_path, {**server.online, "packed": packed})
        return every_way_to_read(fresh, reader)

    for way in range(3):
        assert ways()[way]() == 1
    old = every_way_to_read(*served(tmp_path, {**server.online, "packed": packed}))
    assert old[0]() == old[2]() == 1

    server.client.client_pause(60_000)
    for way in range(3):
        with pytest.raises(NextbuyError, match="Redis could not be read"):
            ways()[way]()
    with pytest.raises(NextbuyError, match="Redis took 0 rows"):
        materialize(repo)

    server.stop()
    for way in range(3):
        with pytest.raises(NextbuyError, match="Redis could not be read"):
            ways()[way]()
    with pytest.raises(NextbuyError, match="Redis took 0 rows"):
        materialize(repo)

    server.start()  # empty: it saved nothing
    assert [ways()[way]() for way in range(3)] == [None] * 3
    assert [old[0](), old[2]()] == [None, None]  # over connections that died meanwhile
    materialize(repo)
    assert [ways()[way]() for way in range(3)] == [1] * 3


def test_full_redis_is_read(tmp_path, server):
    repo, reader = served(tmp_path, server.online)
    materialize(repo)
    server.client.config_set("maxmemory", 1)
    assert [way() for way in every_way_to_read(repo, reader)[::2]] == [1, 1]
    with pytest.raises(NextbuyError, match=r"Redis took 0 rows .* it is full"):
        materialize(repo)


KILLED = """
import sys
from pathlib import Path
from tests.stores.test_errors import long_repo, materialize
materialize(long_repo(Path(sys.argv[1]), sys.argv[2]))
"""


def long_repo(folder, socket):
    online = {
        **OURS_ONLINE,
        "connection_string": f"localhost:0,unix_socket_path={socket}",
        "packed": True,
    }
    return Repo(folder, [entity(), view(folder / "t.parquet")], online_store=online)


def test_process_killed_halfway(tmp_path, server):
    """Every row that is there is whole, in both layouts; the same command completes the rest."""
    many(tmp_path, 60_000)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, tmp_path, server.socket],
        cwd=PROJECT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while server.client.dbsize() < 2_000:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    found = {key: server.client.type(key) for key in server.client.scan_iter(count=1000)}
    hashes = [key for key, kind in found.items() if kind == b"hash"]
    packed = [key for key in found if key.startswith(b"nb")]
    assert 0 < len(hashes) < 60_000
    assert len(packed) == len(hashes)
    assert {server.client.hlen(key) for key in hashes} == {2}
    repo = long_repo(tmp_path, server.socket)
    assert not repo.store.get_feature_view("stats").materialization_intervals
    materialize(repo)
    assert (
        server.client.dbsize() == 2 * 60_000 + 2
    )  # and the clock, and whose packed rows these are
    assert repo.store.get_feature_view("stats").materialization_intervals


def test_null_keys_and_times_are_left_out_and_unknown_entities_have_no_values(tmp_path, flushed):
    path = write_table(
        tmp_path / "t.parquet",
        {
            "user_id": pa.array(["a", None, "c"], pa.string()),
            "event_timestamp": times([1, 1, None]),
            "value": pa.array([1, 2, 3], pa.int64()),
        },
    )
    repo = Repo(tmp_path, [entity(), view(path)], online_store=OURS_ONLINE)
    materialize(repo)
    assert len(contents(flushed)) == 1
    assert [value_of(repo, user) for user in ("a", "c", "unknown")] == [1, None, None]


def test_times_without_a_zone_are_utc(tmp_path, flushed):
    path = write_table(
        tmp_path / "t.parquet",
        {
            "user_id": ["a"],
            "event_timestamp": pa.array([at(5).replace(tzinfo=None)], pa.timestamp("us")),
            "value": pa.array([1], pa.int64()),
        },
    )
    repo = Repo(tmp_path, [entity(), view(path)], online_store=OURS_ONLINE)
    repo.store.materialize(at(5).replace(tzinfo=None), at(5))
    found = repo.store.get_online_features(["stats:value"], [{"user_id": "a"}]).proto
    assert found.results[1].values[0].int64_val == 1
    assert found.results[1].event_timestamps[0].seconds == at(5).timestamp()
