"""Our online store beside stock Feast's on one Redis: the same bytes, read by either."""

import asyncio
import threading
import uuid
from datetime import UTC, datetime, timedelta

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureView, Field, FileSource
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Int64, String, UnixTimestamp
from feast.value_type import ValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextbuy.stores.online.writer import TRANSACTION_ROWS, RowCommands
from tests.shop import entity
from tests.stores.small_repo import EVERY_TYPE, Repo, at, times, view, write_table

CENTURIES = datetime(1900, 1, 1), datetime(2200, 1, 1)  # noqa: DTZ001 (hypothesis wants them bare)
OURS_ONLINE = {"type": "nextbuy.stores.online.NextbuyOnlineStore", "clock": "data"}


def stock_online(socket, **extra):
    # Feast's notation knows no sockets, but passes parameters on to redis-py.
    return {
        "type": "redis",
        "connection_string": f"localhost:0,unix_socket_path={socket}",
        **extra,
    }


def everything(folder, rows, **kwargs):
    """A table with a column of each type; each row (user, hour, created, seed)."""

    def some(seed, value):
        return None if seed % 7 == 3 else value

    return write_table(
        folder / "t.parquet",
        {
            "user_id": pa.array([r[0] for r in rows], pa.string()),
            "event_timestamp": times([r[1] for r in rows]),
            "created": times([r[2] for r in rows]),
            "whole": pa.array([some(r[3], (r[3] - 5) * 2**50) for r in rows], pa.int64()),
            "small": pa.array([some(r[3] + 1, r[3] - 4) for r in rows], pa.int32()),
            "real": pa.array([some(r[3] + 2, r[3] / 3) for r in rows], pa.float64()),
            "single": pa.array([some(r[3] + 3, r[3] / 7) for r in rows], pa.float32()),
            "flag": pa.array([some(r[3] + 4, r[3] % 2 == 0) for r in rows], pa.bool_()),
            "text": pa.array([some(r[3] + 5, "ü" * (r[3] * 40)) for r in rows], pa.string()),
        },
        **kwargs,
    )


def every_type_view(path, **kwargs):
    schema = [Field(name="user_id", dtype=String), *EVERY_TYPE]
    return view(path, schema=schema, created_timestamp_column="created", **kwargs)


def contents(client):
    keys = [key for key in client.scan_iter() if not key.startswith(b"nextbuy:clock")]
    return {key: client.hgetall(key) for key in keys}


ROWS = [(f"u{i % 5}", i % 4, i % 3, i) for i in range(12)] + [("", 1, 1, 3)]


def materialize(repo, start=-1, end=100):
    repo.store.materialize(at(start), at(end))


def test_the_same_bytes_as_stock(tmp_path, flushed, redis_socket):
    views = [entity(), every_type_view(everything(tmp_path, ROWS))]
    found = []
    for online, engine_type in (
        (OURS_ONLINE, "nextbuy.stores.compute_engine.NextbuyEngine"),
        (OURS_ONLINE, "local"),
        (stock_online(redis_socket), "local"),
    ):
        flushed.flushall()
        folder = tmp_path / uuid.uuid4().hex
        repo = Repo(folder, views, online_store=online, batch_engine={"type": engine_type})
        materialize(repo)
        found.append(contents(flushed))
    assert len(found[0]) == 6
    assert found[0] == found[1] == found[2]


def test_each_reads_what_the_other_wrote(tmp_path, flushed, redis_socket):
    views = [entity(), every_type_view(everything(tmp_path, ROWS))]
    ours = Repo(tmp_path / "a", views, online_store=OURS_ONLINE)
    stock = Repo(
        tmp_path / "b",
        views,
        online_store=stock_online(redis_socket),
        batch_engine={"type": "local"},
    )
    refs = [f"stats:{field.name}" for field in EVERY_TYPE]
    asked = [{"user_id": user} for user in ("u0", "u1", "", "unknown", "u0", "u2")]
    for writer in (ours, stock):
        flushed.flushall()
        materialize(writer)
        read = [r.store.get_online_features(refs, asked).to_dict() for r in (ours, stock)]
        assert read[0] == read[1]
        assert read[0]["text"][3] is None
        assert any(value is not None for value in read[0]["whole"])


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(-(2**62), 2**62) | st.none(),
            st.floats() | st.none(),
            st.text() | st.none(),
            st.booleans() | st.none(),
            st.datetimes(*CENTURIES),
        ),
        min_size=1,
        max_size=8,
    )
)
def test_any_value_has_stock_s_bytes(tmp_path, flushed, redis_socket, rows):
    table = {
        "id": pa.array(range(len(rows)), pa.int64()),
        "event_timestamp": pa.array([r[4] for r in rows], pa.timestamp("us")),
        "whole": pa.array([r[0] for r in rows], pa.int64()),
        "real": pa.array([r[1] for r in rows], pa.float64()),
        "text": pa.array([r[2] for r in rows], pa.string()),
        "flag": pa.array([r[3] for r in rows], pa.bool_()),
    }
    if table["whole"].null_count:  # stock turns integers with gaps into floats on the way
        small = [None if r[0] is None else r[0] % 2**53 for r in rows]
        table["whole"] = pa.array(small, pa.int64())
    folder = tmp_path / uuid.uuid4().hex
    path = write_table(folder / "t.parquet", table)
    key = entity("id", ValueType.INT64)
    wanted = [f for f in EVERY_TYPE if f.name in table]
    views = [key, view(path, "v", [key], schema=[Field(name="id", dtype=Int64), *wanted])]
    found = []
    for online, batch_engine in (
        (OURS_ONLINE, {"type": "nextbuy.stores.compute_engine.NextbuyEngine"}),
        (stock_online(redis_socket), {"type": "local"}),
    ):
        flushed.flushall()
        repo = Repo(
            folder / batch_engine["type"], views, online_store=online, batch_engine=batch_engine
        )
        repo.store.materialize(*(moment.replace(tzinfo=UTC) for moment in CENTURIES))
        found.append(contents(flushed))
    assert found[0] == found[1]


def test_lists_and_timestamps_go_through_feast_s_own_conversion(tmp_path, flushed, redis_socket):
    path = write_table(
        tmp_path / "t.parquet",
        {
            "user_id": ["a", "b"],
            "event_timestamp": times([1, 2]),
            "seen": times([5, 6]),
            "items": pa.array([["x", "y"], []], pa.list_(pa.string())),
        },
    )
    schema = [
        Field(name="user_id", dtype=String),
        Field(name="seen", dtype=UnixTimestamp),
        Field(name="items", dtype=Array(String)),
    ]
    repo = Repo(tmp_path, [entity(), view(path, schema=schema)], online_store=OURS_ONLINE)
    materialize(repo)
    found = repo.store.get_online_features(["stats:seen", "stats:items"], [{"user_id": "a"}])
    assert found.to_dict()["items"] == [["x", "y"]]
    assert found.to_dict()["seen"] == [at(5)]


def test_mapped_columns_and_keys_of_two_types(tmp_path, flushed):
    path = write_table(
        tmp_path / "t.parquet",
        {
            "buyer": ["a", None, "a"],
            "item_id": pa.array([1, 2, 2], pa.int64()),
            "ts": times([1, 2, None]),
            "v": pa.array([5, 6, 7], pa.int64()),
        },
    )
    item = entity("item_id", ValueType.INT64)
    pairs = view(
        path,
        "pairs",
        [entity(), item],
        schema=[
            Field(name="user_id", dtype=String),
            Field(name="item_id", dtype=Int64),
            Field(name="value", dtype=Int64),
        ],
        timestamp_field="ts",
        field_mapping={"v": "value", "buyer": "user_id"},
    )
    repo = Repo(tmp_path, [entity(), item, pairs], online_store=OURS_ONLINE)
    materialize(repo)
    asked = [{"user_id": "a", "item_id": 1}, {"user_id": "a", "item_id": 2}]
    found = repo.store.get_online_features(["pairs:value"], asked).to_dict()
    assert found["value"] == [5, None]
    assert len(contents(flushed)) == 1  # rows without a key or a time are nobody's


def test_view_without_entities(tmp_path, flushed):
    path = write_table(
        tmp_path / "t.parquet", {"event_timestamp": times([1, 2]), "value": pa.array([1, 2])}
    )
    shop = view(path, "shop", [], schema=[Field(name="value", dtype=Int64)])
    repo = Repo(tmp_path, [shop], online_store=OURS_ONLINE)
    materialize(repo)
    (fields,) = contents(flushed).values()
    assert Value(int64_val=2).SerializeToString() in fields.values()


# Older and newer


def simple(folder, rows, name="t.parquet", **kwargs):
    path = write_table(
        folder / name,
        {
            "user_id": [r[0] for r in rows],
            "event_timestamp": times([r[1] for r in rows]),
            "value": pa.array([r[2] for r in rows], pa.int64()),
        },
    )
    return view(path, **kwargs)


def value_of(repo, user="a"):
    return repo.store.get_online_features(["stats:value"], [{"user_id": user}]).to_dict()["value"][
        0
    ]


def push(repo, rows):
    frame = pd.DataFrame(
        {
            "user_id": [r[0] for r in rows],
            "event_timestamp": [at(r[1]) for r in rows],
            "value": [r[2] for r in rows],
        }
    )
    repo.store.write_to_online_store("stats", frame)


def test_older_never_overwrites_newer(tmp_path, flushed):
    repo = Repo(tmp_path, [entity(), simple(tmp_path, [("a", 2, 2)])], online_store=OURS_ONLINE)
    push(repo, [("a", 3, 3)])
    materialize(repo)
    assert value_of(repo) == 3
    push(repo, [("a", 5, 5), ("a", 4, 4)])
    assert value_of(repo) == 5


def test_a_corrected_value_of_the_same_moment_arrives(tmp_path, flushed):
    repo = Repo(tmp_path, [entity(), simple(tmp_path, [("a", 2, 2)])], online_store=OURS_ONLINE)
    materialize(repo)
    simple(tmp_path, [("a", 2, 22)])
    materialize(repo)
    assert value_of(repo) == 22


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(moments=st.lists(st.datetimes(*CENTURIES), max_size=8))
def test_the_newest_of_any_stamps_wins(tmp_path, flushed, moments):
    flushed.flushall()
    repo = newest_repo(tmp_path)
    for number, moment in enumerate(moments):
        key = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val="a")])
        row = (key, {"value": Value(int64_val=number)}, moment, None)
        repo.store.provider.online_write_batch(
            repo.store.config, repo.store.get_feature_view("stats"), [row], None
        )
    newest = max(((m, n) for n, m in enumerate(moments)), default=(None, None))[1]
    assert value_of(repo) == newest


_newest = {}


def newest_repo(folder):
    if folder not in _newest:
        _newest[folder] = Repo(
            folder, [entity(), simple(folder, [("z", 0, 0)])], online_store=OURS_ONLINE
        )
    return _newest[folder]


@pytest.mark.parametrize("packed", [False, True])
def test_two_writers_at_once(tmp_path, flushed, packed):
    """Each writes its rows in an order of its own; the newest of both is left, in both layouts."""
    users = [f"u{i}" for i in range(300)]
    online = {**OURS_ONLINE, "packed": packed}
    repos = [
        Repo(tmp_path / str(n), [entity(), simple(tmp_path, [("z", 0, 0)])], online_store=online)
        for n in range(2)
    ]

    def writer(number):
        hours = range(20) if number else range(19, -1, -1)
        for hour in hours:
            push(repos[number], [(user, hour * 2 + number, hour * 2 + number) for user in users])

    threads = [threading.Thread(target=writer, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = repos[0].store.get_online_features(
        ["stats:value"], [{"user_id": user} for user in users]
    )
    assert set(found.to_dict()["value"]) == {39}


@pytest.mark.parametrize("packed", [False, True])
def test_a_newer_row_between_look_and_write(tmp_path, flushed, packed, monkeypatch):
    online = {**OURS_ONLINE, "packed": packed}
    views = [entity(), simple(tmp_path, [("z", 0, 0)])]
    slow, fast = (Repo(tmp_path / name, views, online_store=online) for name in ("slow", "fast"))
    users = [f"u{i}" for i in range(200)]
    transaction, looks = RowCommands.transaction, []

    def overtaken(commands, part, replies):
        looks.append(part)
        if len(looks) == 1:
            monkeypatch.setattr(RowCommands, "transaction", transaction)
            push(fast, [(user, 9, 9) for user in users[::2]])
            monkeypatch.setattr(RowCommands, "transaction", overtaken)
        return transaction(commands, part, replies)

    monkeypatch.setattr(RowCommands, "transaction", overtaken)
    push(slow, [(user, 5, 5) for user in users])
    assert len(looks) > 200 / TRANSACTION_ROWS  # what was overtaken was looked at again
    assert [value_of(slow, user) for user in users] == [9, 5] * 100


def test_of_rows_with_one_key_the_newest_is_written(tmp_path, flushed):
    repo = Repo(tmp_path, [entity(), simple(tmp_path, [("z", 0, 0)])], online_store=OURS_ONLINE)
    rows = [(f"u{i % 90}", hour, hour) for hour in (2, 7, 4) for i in range(90)]
    taken = []
    data = [
        (EntityKey(join_keys=["user_id"], entity_values=[Value(string_val=user)]),
         {"value": Value(int64_val=value)}, at(hour), None)
        for user, hour, value in [*rows, ("u3", 7, 70)]
    ]  # fmt: skip
    view = repo.store.get_feature_view("stats")
    repo.store.provider.online_write_batch(repo.store.config, view, data, taken.append)
    assert [value_of(repo, f"u{i}") for i in range(5)] == [7, 7, 7, 70, 7]
    assert sum(taken) == len(data)


# Expiry


def test_expired_values_are_not_served_where_stock_serves_them(tmp_path, flushed, redis_socket):
    views = [
        entity(),
        simple(tmp_path, [("a", 1, 1), ("b", 9, 2)], ttl=timedelta(hours=3)),
    ]
    ours = Repo(tmp_path / "a", views, online_store=OURS_ONLINE)
    stock = Repo(tmp_path / "b", views, online_store=stock_online(redis_socket))
    materialize(ours)
    assert [value_of(stock, user) for user in "ab"] == [1, 2]  # feast issue 1802
    assert [value_of(ours, user) for user in "ab"] == [None, 2]
    asynchronous = asyncio.run(
        ours.store.get_online_features_async(["stats:value"], [{"user_id": "a"}, {"user_id": "b"}])
    )
    assert asynchronous.to_dict()["value"] == [None, 2]


def test_keys_leave_redis_with_their_last_view(tmp_path, flushed):
    now = datetime.now(UTC)

    def rows(name, hours, ttl):
        path = write_table(
            tmp_path / f"{name}.parquet",
            {
                "user_id": ["a", "old"],
                "event_timestamp": pa.array(
                    [now - timedelta(hours=hours), now - timedelta(days=50)],
                    pa.timestamp("us", "UTC"),
                ),
                "value": pa.array([1, 2]),
            },
        )
        return view(path, name, ttl=ttl)

    short, long = rows("short", 1, timedelta(hours=2)), rows("long", 1, timedelta(hours=6))
    endless = rows("endless", 1, None)
    wall = {**OURS_ONLINE, "clock": "wall"}
    repo = Repo(tmp_path, [entity(), short, long, endless], online_store=wall)

    def left():
        (key,) = contents(flushed)
        return flushed.pttl(key) / 3.6e6

    def run(name):
        repo.store.materialize(now - timedelta(days=99), now, feature_views=[name])

    run("short")
    assert 0.9 < left() <= 1
    run("long")
    assert 4.9 < left() <= 5
    run("short")
    assert 4.9 < left() <= 5
    run("endless")
    assert {flushed.pttl(key) for key in contents(flushed)} == {-1}


def test_view_that_goes_takes_its_values_along(tmp_path, flushed):
    repo = Repo(
        tmp_path,
        [entity(), simple(tmp_path, [("a", 1, 1)])],
        online_store={**OURS_ONLINE, "packed": True},
    )
    materialize(repo)
    repo.store.apply([], objects_to_delete=[repo.store.get_feature_view("stats")], partial=False)
    assert contents(flushed) == {}


def test_feature_view_of_many_features(tmp_path, flushed):
    names = [f"f{i}" for i in range(150)]
    path = write_table(
        tmp_path / "t.parquet",
        {
            "user_id": ["a"],
            "event_timestamp": times([1]),
            **{name: pa.array([i], pa.int64()) for i, name in enumerate(names)},
        },
    )
    schema = [Field(name="user_id", dtype=String), *(Field(name=n, dtype=Int64) for n in names)]
    source = FileSource(name="s", path=str(path), timestamp_field="event_timestamp")
    wide = FeatureView(name="wide", entities=[entity()], schema=schema, source=source)
    repo = Repo(tmp_path, [entity(), wide], online_store=OURS_ONLINE)
    materialize(repo)
    found = repo.store.get_online_features([f"wide:{n}" for n in names], [{"user_id": "a"}])
    assert [found.to_dict()[n] for n in names] == [[i] for i in range(150)]
