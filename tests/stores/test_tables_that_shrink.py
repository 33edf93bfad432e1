"""Rows that left a published table leave Redis, in both layouts; newer ones stay."""

import struct
import uuid

import pyarrow as pa
import pytest
from feast import FeatureService, Field
from feast.types import Float64, Int64, String
from feast.value_type import ValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.stores import compute_engine
from nextbuy.stores.online.keys import hash_key
from nextbuy.stores.online.reader import OnlineReader
from nextbuy.versioned_table import new_version
from tests.shop import entity
from tests.stores.small_repo import Repo, at, times, view
from tests.stores.test_online import OURS_ONLINE
from tests.stores.test_online import push as push_rows

LAYOUTS = pytest.mark.parametrize("packed", [False, True], ids=["hashes", "packed"])


class Shop:
    """A feature view over a published table of its own."""

    def __init__(self, folder, packed):
        self.settings = Settings()
        self.table = self.settings.features / f"t{uuid.uuid4().hex}"
        self.publish([("nobody", 0, 0)])
        stats = view(self.table)
        service = FeatureService(name="all", features=[stats])
        online = {**OURS_ONLINE, "packed": packed}
        self.repo = Repo(folder, [entity(), stats, service], online_store=online)

    def publish(self, rows):
        """Publish rows of (shopper, day, value)."""
        table = pa.table(
            {
                "user_id": pa.array([r[0] for r in rows], pa.string()),
                "event_timestamp": times([24 * r[1] for r in rows]),
                "value": pa.array([r[2] for r in rows], pa.int64()),
            }
        )
        with (
            duckdb_connection(self.settings) as connection,
            new_version(self.table, uuid.uuid4().hex) as version,
        ):
            connection.register("rows_to_publish", table)
            version.write_days(connection, "rows_to_publish", "event_timestamp", ["user_id"])

    def load(self, first=-1, last=100, search=False):
        """Materialize; returns how many rows were removed from Redis."""
        engine = self.repo.store.provider.batch_engine
        engine.search_redis = search
        self.repo.store.materialize(at(24 * first), at(24 * last))
        return engine.loads["stats"].removed

    def push(self, rows):
        """What an event brings: rows of (shopper, day, value) for Redis alone."""
        push_rows(self.repo, [(user, 24 * day, value) for user, day, value in rows])

    def served(self, *users):
        """What Feast and the reader say, which must be the same."""
        entities = [{"user_id": user} for user in users]
        feast = self.repo.store.get_online_features(["stats:value"], entities).to_dict()["value"]
        read = OnlineReader(self.repo.store, "all").read({"user_id": list(users)})
        assert read["stats__value"].to_pylist() == feast
        return feast


@LAYOUTS
def test_the_newest_day_goes_away(tmp_path, flushed, packed):
    shop = Shop(tmp_path, packed)
    shop.publish([("a", 1, 1), ("b", 1, 2), ("a", 3, 3), ("c", 3, 4)])
    assert shop.load() == 0
    assert shop.served("a", "b", "c") == [3, 2, 4]
    shop.publish([("a", 1, 1), ("b", 1, 2)])
    assert shop.load(first=3) == 2  # of a and of c; a has the row of a day that did not change
    assert shop.served("a", "b", "c") == [1, 2, None]
    parts = filter(None, map(hash_key, flushed.scan_iter()))
    assert {part.values[0][1] for part in parts} == {b"a", b"b"}
    assert len(list(flushed.scan_iter(b"nb*"))) == 2 * packed
    assert shop.load() == 0


@LAYOUTS
def test_every_row_goes_away(tmp_path, flushed, packed):
    shop = Shop(tmp_path, packed)
    shop.publish([("a", 1, 1), ("b", 2, 2)])
    shop.load()
    shop.publish([])
    assert shop.load() == 2
    assert shop.served("a", "b") == [None, None]
    assert {key.partition(b":")[0] for key in flushed.scan_iter()} == {b"nextbuy"}


@LAYOUTS
def test_what_events_wrote_later_stays(tmp_path, flushed, packed):
    shop = Shop(tmp_path, packed)
    shop.publish([("a", 1, 1), ("b", 1, 2), ("c", 1, 3)])
    shop.load()
    shop.push([("a", 2, 10), ("new", 2, 11)])
    shop.publish([("c", 1, 3)])
    assert shop.load() == 1
    assert shop.served("a", "b", "c", "new") == [10, None, 3, 11]


@LAYOUTS
def test_other_views_of_the_shopper_stay(tmp_path, flushed, packed):
    shop, other = Shop(tmp_path, packed), Shop(tmp_path / "o", packed)
    other_view = view(other.table, "other")
    shop.repo.store.apply([other_view, FeatureService(name="both", features=[other_view])])
    shop.publish([("a", 1, 1)])
    other.publish([("a", 1, 7)])
    shop.load()
    shop.publish([])
    assert shop.load() == 1
    assert shop.served("a") == [None]
    reader = OnlineReader(shop.repo.store, "both")
    assert reader.read({"user_id": ["a"]})["other__value"].to_pylist() == [7]


@LAYOUTS
def test_a_load_that_broke_off_is_completed(tmp_path, flushed, packed, monkeypatch):
    shop = Shop(tmp_path, packed)
    shop.publish([("a", 1, 1), ("a", 3, 3), ("b", 3, 4)])
    shop.load()
    shop.publish([("a", 1, 1), ("c", 2, 5)])
    with monkeypatch.context() as patch:
        patch.setattr(compute_engine, "write", _broken)
        with pytest.raises(NextbuyError, match="broken off"):
            shop.load(first=2)
    shop.publish([("a", 1, 1)])
    shop.load(first=2)
    assert shop.served("a", "b", "c") == [1, None, None]


def _broken(*_):
    raise NextbuyError("broken off")


def test_a_load_of_some_days_takes_nothing_of_the_others(tmp_path, flushed):
    shop = Shop(tmp_path, packed=True)
    shop.publish([("a", 1, 1), ("b", 5, 2)])
    shop.load()
    shop.publish([("a", 1, 1), ("a", 2, 3), ("b", 5, 20)])
    assert shop.load(first=1, last=2) == 0
    assert shop.served("a", "b") == [3, 2]


@LAYOUTS
def test_a_search_finds_what_no_table_has(tmp_path, flushed, packed):
    shop = Shop(tmp_path, packed)
    shop.publish([("a", 1, 1), ("b", 2, 2)])
    shop.load()
    shop.push([("stray", 1, 5), ("b", 3, 6)])
    assert shop.load() == 0  # no table ever had these rows
    assert shop.served("stray", "b") == [5, 6]
    assert shop.load(search=True) == 2
    assert shop.served("stray", "a", "b") == [None, 1, 2]


def test_a_search_removes_the_rows_of_a_former_schema(tmp_path, flushed):
    shop = Shop(tmp_path, packed=True)
    shop.publish([("a", 1, 1), ("b", 2, 2)])
    shop.load()
    typed = [Field(name="user_id", dtype=String), Field(name="value", dtype=Float64)]
    changed = view(shop.table, schema=typed)
    shop.repo.store.apply([changed, FeatureService(name="all", features=[changed])])
    shop.load()
    assert len(list(flushed.scan_iter(b"nb*"))) == 4  # a running reader still reads the former two
    assert shop.load(search=True) == 2
    assert len(list(flushed.scan_iter(b"nb*"))) == 2
    assert shop.served("a", "b") == [1.0, 2.0]


def test_without_the_former_table_all_of_redis_is_searched(tmp_path, flushed):
    shop = Shop(tmp_path, packed=True)
    shop.publish([("a", 1, 1), ("b", 2, 2)])
    shop.load()
    for copy in (shop.settings.live / "materialized").glob("stats-*"):
        copy.rename(copy.with_name(f"away-{copy.name}"))
    shop.publish([("a", 1, 1)])
    assert shop.load() == 1
    assert shop.served("a", "b") == [1, None]


def test_keys_of_two_entities_and_of_numbers(tmp_path, flushed):
    """Ids that are each other's beginning, or the project's name, are told apart."""
    settings = Settings()
    table = settings.features / f"t{uuid.uuid4().hex}"
    item = entity("item_id", ValueType.INT64)
    fields = [
        Field(name="user_id", dtype=String),
        Field(name="item_id", dtype=Int64),
        Field(name="n", dtype=Int64),
    ]
    repo = None
    users = ["shop", "shopshop", "", "shop\x02\x00\x00\x00", "*"]
    for kept in (slice(None), slice(0, None, 2)):
        rows = [(user, number) for user in users for number in (-1, 0, 2**40)][kept]
        arrow = pa.table(
            {
                "user_id": [user for user, _ in rows],
                "item_id": pa.array([number for _, number in rows], pa.int64()),
                "event_timestamp": times([1] * len(rows)),
                "n": pa.array(range(len(rows)), pa.int64()),
            }
        )
        with (
            duckdb_connection(settings) as connection,
            new_version(table, uuid.uuid4().hex) as version,
        ):
            connection.register("arrow_rows", arrow)
            version.write_days(connection, "arrow_rows", "event_timestamp", ["user_id", "item_id"])
        if repo is None:
            pairs = view(table, "pairs", [entity(), item], schema=fields)
            online = {**OURS_ONLINE, "packed": True}
            repo = Repo(tmp_path, [entity(), item, pairs], online_store=online)
        repo.store.materialize(at(-1), at(100))
    everyone = [{"user_id": user, "item_id": n} for user in users for n in (-1, 0, 2**40)]
    found = repo.store.get_online_features(["pairs:n"], everyone).to_dict()["n"]
    assert found == [i // 2 if i % 2 == 0 else None for i in range(15)]
    assert len(list(flushed.scan_iter(b"nb*"))) == 8
    assert len([key for key in flushed.scan_iter() if key.startswith(struct.pack("<I", 2))]) == 8


ROWS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(1, 6)), unique=True, max_size=10
).map(lambda keys: [(user, day, day * 10 + number) for number, (user, day) in enumerate(keys)])


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    packed=st.booleans(),
    steps=st.lists(
        st.one_of(
            ROWS.map(lambda rows: ("table", rows)),
            st.tuples(st.just("event"), st.sampled_from("abcde")),
            st.just(("restart", None)),
        ),
        min_size=2,
        max_size=7,
    ),
)
def test_any_tables_one_after_the_other(tmp_path, flushed, packed, steps):
    """Redis holds the last table's newest rows and what events wrote since, whatever was before."""
    flushed.flushall()
    shop = Shop(tmp_path / uuid.uuid4().hex, packed)
    expected, written = {}, {}
    for number, (kind, what) in enumerate(steps):
        if kind == "table":
            shop.publish(what)
            shop.load()
            newest = {user: value for user, _, value in sorted(what, key=lambda row: row[1])}
            expected = newest | written
        elif kind == "event":
            shop.push([(what, 50 + number, 1000 + number)])
            written[what] = expected[what] = 1000 + number
        else:
            flushed.flushall()
            expected, written = {}, {}
        assert shop.served(*"abcde") == [expected.get(user) for user in "abcde"]
