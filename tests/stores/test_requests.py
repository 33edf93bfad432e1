"""Online requests that Feast answers wrongly or with a TypeError; values of former types."""

import asyncio
import re

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService, Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Bool, Bytes, Float32, Float64, Int32, Int64, String
from feast.value_type import ValueType

from nextbuy.errors import NextbuyError
from nextbuy.stores.online.encoding import SCALARS
from nextbuy.stores.online.reader import OnlineReader
from tests.shop import entity
from tests.stores.small_repo import Repo, at, times, view, write_table
from tests.stores.test_online import OURS_ONLINE, simple
from tests.stores.test_reader import LAYOUTS, online

DECLARED = {"Int64": Int64, "Int32": Int32, "Float64": Float64, "Float32": Float32, "Bool": Bool,
            "String": String, "Bytes": Bytes}  # fmt: skip
STORED = {
    "five": ("Int64", 5, "Int64 Int32 Float64 Float32"),
    "big": ("Int64", 2**53 + 1, "Int64"),
    "small": ("Int32", 300, "Int64 Int32 Float64 Float32"),
    "half": ("Float64", 1.5, "Float64 Float32"),
    "tenth": ("Float64", 0.1, "Float64"),
    "two": ("Float64", 2.0, "Int64 Int32 Float64 Float32"),
    "single": ("Float32", 0.5, "Float64 Float32"),
    "flag": ("Bool", True, "Bool"),
    "text": ("String", "text", "String"),
    "long": ("String", "x" * 300, "String"),
    "raw": ("Bytes", b"raw", "Bytes"),
}
"""Type and value when written, and the types that have the same value."""


@pytest.mark.parametrize("now", DECLARED)
@pytest.mark.parametrize("then", STORED)
def test_a_type_that_changed_after_the_write(tmp_path, flushed, then, now):
    """As stock, the reader gives the value that is stored; or it says that it does not fit."""
    dtype, value, same = STORED[then]
    path = write_table(
        tmp_path / "t.parquet",
        {
            "user_id": ["a", "gap"],
            "event_timestamp": times([1, 1]),
            "value": pa.array([value, None], SCALARS[DECLARED[dtype].to_value_type()]),
        },
    )

    def declared(dtype):
        fields = [Field(name="user_id", dtype=String), Field(name="value", dtype=DECLARED[dtype])]
        stats = view(path, schema=fields)
        return [entity(), stats, FeatureService(name="all", features=[stats])]

    repo = Repo(tmp_path, declared(dtype), online_store=OURS_ONLINE)
    repo.store.materialize(at(-1), at(9))
    repo.store.apply(declared(now))
    users = ["gap", "a", "unknown"]
    entities = [{"user_id": user} for user in users]
    stock = repo.store.get_online_features(["stats:value"], entities).to_dict()["value"]
    assert stock == [None, value, None]
    reader = OnlineReader(repo.store, "all")
    if now in same.split():
        block = reader.read({"user_id": users})
        assert block["stats__value"].to_pylist() == [None, value, None]
    else:
        stored = re.escape(f"{type(value).__name__} {value!r} of stats:value")
        with pytest.raises(NextbuyError, match=f"{stored}.* materialize"):
            reader.read({"user_id": users})


@LAYOUTS
def test_a_null_key_is_named(tmp_path, flushed, packed):
    service = FeatureService(name="all", features=[simple(tmp_path, [("a", 1, 1)])])
    objects = [entity(), simple(tmp_path, [("a", 1, 1)]), service]
    repo = Repo(tmp_path, objects, online_store=online(packed))
    repo.store.materialize(at(-1), at(9))
    rows = [{"user_id": "a"}, {"user_id": None}]
    with pytest.raises(NextbuyError, match="Row 1 of the request has no 'user_id'"):
        repo.store.get_online_features(["stats:value"], rows)
    with pytest.raises(NextbuyError, match="Row 1 of the request has no 'user_id'"):
        asyncio.run(repo.store.get_online_features_async(["stats:value"], rows))
    found = OnlineReader(repo.store, "all").read({"user_id": ["a", None]})
    assert found["stats__value"].to_pylist() == [1, None]


@LAYOUTS
def test_a_mapped_key_is_not_replaced_by_the_base_key(tmp_path, flushed, packed):
    stats = simple(tmp_path, [("a", 1, 1), ("b", 1, 2)])
    own = stats.with_name("own")  # Feast cannot compare a service of a view beside its alias
    referrer = stats.with_name("referrer").with_join_key_map({"user_id": "referrer_id"})
    service = FeatureService(name="all", features=[own, referrer])
    repo = Repo(tmp_path, [entity(), stats, service], online_store=online(packed))
    repo.store.materialize(at(-1), at(9))
    service = repo.store.get_feature_service("all")
    both = {"user_id": ["a"], "referrer_id": ["b"]}
    found = repo.store.get_online_features(service, both, full_feature_names=True).to_dict()
    assert (found["own__value"], found["referrer__value"]) == ([1], [2])
    block = OnlineReader(repo.store, "all").read(both)
    assert {name: block[name].to_pylist() for name in block} == {
        "own__value": [1],
        "referrer__value": [2],
    }
    with pytest.raises(NextbuyError, match="lacks the join key 'referrer_id'"):
        repo.store.get_online_features(service, {"user_id": ["a"]}, full_feature_names=True)


def test_writes_without_a_look_are_refused(tmp_path, data_folder):
    with pytest.raises(ValueError, match="skip_dedup is not supported by NextbuyOnlineStore"):
        Repo(tmp_path, [entity()], online_store={**OURS_ONLINE, "skip_dedup": True})


# On-demand views


def priced(folder, packed, *on_demand):
    item = entity("item_id", ValueType.INT64)
    path = write_table(
        folder / "items.parquet",
        {
            "item_id": pa.array([1, 2, 3], pa.int64()),
            "event_timestamp": times([1, 1, 1]),
            "price": pa.array([10, None, 30], pa.int64()),
        },
    )
    fields = [Field(name="item_id", dtype=Int64), Field(name="price", dtype=Int64)]
    items = view(path, "items", [item], schema=fields)
    made = [each(items) for each in on_demand]
    service = FeatureService(name="all", features=[items, *made])
    stored = [each for each in made if each.projection.name_alias is None]
    repo = Repo(folder, [item, items, *stored, service], online_store=online(packed))
    repo.store.materialize(at(-1), at(9))
    return repo


def doubled(items):
    @on_demand_feature_view(
        name="doubled", sources=[items], schema=[Field(name="twice", dtype=Int64)], mode="pandas"
    )
    def twice(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": inputs["price"] * 2})

    return twice


def one_by_one(items):
    amount = RequestSource(name="asked", schema=[Field(name="amount", dtype=Int64)])

    @on_demand_feature_view(
        name="single",
        sources=[items, amount],
        schema=[Field(name="total", dtype=Int64), Field(name="text", dtype=String)],
        mode="python",
        singleton=True,
    )
    def total(row: dict) -> dict:
        price = row["price"] or 0
        return {"total": price * row["amount"], "text": f"{price} x {row['amount']}"}

    return total


@LAYOUTS
def test_integers_of_an_on_demand_view_stay_integers_beside_a_null(tmp_path, flushed, packed):
    reader = OnlineReader(priced(tmp_path, packed, doubled).store, "all")
    column = reader.read({"item_id": [1, 2, 3]})["doubled__twice"]
    assert (str(column.type), column.to_pylist()) == ("int64", [20, None, 60])


@LAYOUTS
def test_a_view_of_single_rows_gets_each_row(tmp_path, flushed, packed):
    reader = OnlineReader(priced(tmp_path, packed, one_by_one).store, "all")
    block = reader.read({"item_id": [1, 2, 3], "amount": [2, 3, 4]})
    assert block["single__total"].to_pylist() == [20, 0, 120]
    assert block["single__text"].to_pylist() == ["10 x 2", "0 x 3", "30 x 4"]
    assert reader.read({"item_id": [3], "amount": [1]})["single__total"].to_pylist() == [30]


@LAYOUTS
def test_a_view_beside_its_own_alias(tmp_path, flushed, packed):
    def twin(items):
        return doubled(items).with_name("twin")

    reader = OnlineReader(priced(tmp_path, packed, doubled, twin).store, "all")
    block = reader.read({"item_id": [1, 3]})
    assert {name: block[name].to_pylist() for name in block} == {
        "items__price": [10, 30],
        "doubled__twice": [20, 60],
        "twin__twice": [20, 60],
    }
