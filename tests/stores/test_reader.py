"""The reader's blocks beside Feast's own `get_online_features`, in both layouts."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService, Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from nextbuy.contract import ModelContract
from nextbuy.errors import NextbuyError
from nextbuy.stores.online.reader import OnlineReader
from nextbuy.times import NOT_SEEN_US, SECOND, to_us
from tests.shop import entity
from tests.stores.small_repo import EVERY_TYPE, Repo, at, times, view, write_table
from tests.stores.test_online import OURS_ONLINE, ROWS, every_type_view, everything, materialize

LAYOUTS = pytest.mark.parametrize("packed", [False, True], ids=["hashes", "packed"])


def online(packed):
    return {**OURS_ONLINE, "packed": packed}


def three_views(folder, packed, **kwargs):
    item = entity("item_id", ValueType.INT64)
    users = every_type_view(everything(folder, ROWS))
    items = view(
        write_table(
            folder / "items.parquet",
            {
                "item_id": pa.array(range(-2, 5), pa.int64()),
                "event_timestamp": times(range(7)),
                "price": pa.array([1.5, None, 3.0, 4.0, 5.0, 6.0, 7.0]),
                "brand": ["x", "", None, "ü", "x" * 300, "y", "z"],
            },
        ),
        "items",
        [item],
        schema=[
            Field(name="item_id", dtype=Int64),
            Field(name="price", dtype=Float64),
            Field(name="brand", dtype=String),
        ],
        **kwargs,
    )
    pairs = view(
        write_table(
            folder / "pairs.parquet",
            {
                "user_id": ["u1", "u1", ""],
                "item_id": pa.array([1, 2, 1], pa.int64()),
                "event_timestamp": times([1, 2, 3]),
                "n": pa.array([10, None, 30], pa.int64()),
            },
        ),
        "pairs",
        [entity(), item],
        schema=[
            Field(name="user_id", dtype=String),
            Field(name="item_id", dtype=Int64),
            Field(name="n", dtype=Int64),
        ],
    )
    service = FeatureService(name="all", features=[users, items, pairs])
    repo = Repo(folder, [entity(), item, users, items, pairs, service], online_store=online(packed))
    materialize(repo)
    return repo


def as_feast(repo, columns):
    found = repo.store.get_online_features(
        repo.store.get_feature_service("all"), columns, full_feature_names=True
    ).to_dict()
    return {name: values for name, values in found.items() if "__" in name}


@LAYOUTS
def test_block_equals_feast_s_answer(tmp_path, flushed, packed):
    repo = three_views(tmp_path, packed)
    reader = OnlineReader(repo.store, "all")
    columns = {
        "user_id": ["u1", "u1", "", "unknown", "u2", "u1"],
        "item_id": [1, 2, 1, 99, -2, 1],
    }
    block = reader.read(columns)
    expected = as_feast(repo, columns)
    assert {name: block[name].to_pylist() for name in block} == expected
    assert list(block) == reader.features


@LAYOUTS
def test_one_value_stands_for_all_rows(tmp_path, flushed, packed):
    reader = OnlineReader(three_views(tmp_path, packed).store, "all")
    once = reader.read({"user_id": ["u1"], "item_id": [1, 2, 3]})
    spelled = reader.read({"user_id": ["u1"] * 3, "item_id": [1, 2, 3]})
    assert once.table().equals(spelled.table())
    assert once.rows == 3
    assert reader.join_keys == ["item_id", "user_id"]


@LAYOUTS
def test_null_keys_have_no_values(tmp_path, flushed, packed):
    reader = OnlineReader(three_views(tmp_path, packed).store, "all")
    block = reader.read({"user_id": [None, "u1"], "item_id": [1, None]})
    assert block["pairs__n"].to_pylist() == [None, None]
    assert block["items__price"].to_pylist() == [4.0, None]
    assert block["stats__whole"][0].as_py() is None


@LAYOUTS
def test_matrix_and_contract(tmp_path, flushed, packed):
    reader = OnlineReader(three_views(tmp_path, packed).store, "all")
    block = reader.read({"user_id": ["u1"], "item_id": [1, 2, 77]})
    names = ["pairs__n", "items__price"]
    expected = np.array([[10, 4], [np.nan, 5], [np.nan, np.nan]], np.float32)
    np.testing.assert_array_equal(block.matrix(names), expected)
    contract = ModelContract(
        feature_service="all",
        features=("items__brand", *names),
        categories={"items__brand": ("ü", "y")},
        family="xgboost",
    )
    np.testing.assert_array_equal(contract.matrix(block)[:, 1:], expected)
    np.testing.assert_array_equal(contract.matrix(block)[:, 0], [0, np.nan, np.nan])
    with pytest.raises(KeyError):
        block.matrix(["items__nothing"])


@LAYOUTS
def test_expired_rows_and_ages(tmp_path, flushed, packed):
    repo = three_views(tmp_path, packed, ttl=timedelta(hours=2))
    reader = OnlineReader(repo.store, "all")
    columns = {"user_id": ["u1"], "item_id": [1, 2, 4]}
    block = reader.read(columns)  # the data's newest row is at 6 hours
    assert block.now == at(6)
    assert block["items__price"].to_pylist() == [None, 5.0, 7.0]
    ages = [None if us == NOT_SEEN_US else to_us(at(6)) - us for us in block.timestamps["items"]]
    assert ages == [None, 7200 * SECOND, 0]
    later = reader.read(columns, now=at(8))
    assert later["items__price"].to_pylist() == [None, None, 7.0]
    assert later["stats__whole"].equals(block["stats__whole"])  # without a TTL


@LAYOUTS
def test_on_demand_view_with_inputs_that_are_not_in_the_service(tmp_path, flushed, packed):
    item = entity("item_id", ValueType.INT64)
    items = view(
        write_table(
            tmp_path / "items.parquet",
            {
                "item_id": pa.array([1, 2], pa.int64()),
                "event_timestamp": times([1, 2]),
                "price": [10.0, 20.0],
                "cost": [1.0, 2.0],
            },
        ),
        "items",
        [item],
        schema=[
            Field(name="item_id", dtype=Int64),
            Field(name="price", dtype=Float64),
            Field(name="cost", dtype=Float64),
        ],
    )
    asked = RequestSource(name="asked", schema=[Field(name="amount", dtype=Int64)])

    @on_demand_feature_view(
        sources=[items, asked], schema=[Field(name="margin", dtype=Float64)], mode="pandas"
    )
    def margins(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"margin": (inputs["price"] - inputs["cost"]) * inputs["amount"]})

    service = FeatureService(name="all", features=[items[["price"]], margins])
    repo = Repo(tmp_path, [item, items, margins, service], online_store=online(packed))
    materialize(repo)
    columns = {"item_id": [1, 2], "amount": [3, 4]}
    block = OnlineReader(repo.store, "all").read(columns)
    assert {name: block[name].to_pylist() for name in block} == as_feast(repo, columns)
    assert block.matrix().tolist() == [[10.0, 27.0], [20.0, 72.0]]


@LAYOUTS
def test_view_without_entities(tmp_path, flushed, packed):
    path = write_table(
        tmp_path / "t.parquet", {"event_timestamp": times([1, 2]), "value": pa.array([1, 2])}
    )
    shop = view(path, "shop", [], schema=[Field(name="value", dtype=Int64)])
    service = FeatureService(name="all", features=[shop])
    repo = Repo(tmp_path, [shop, service], online_store=online(packed))
    materialize(repo)
    assert OnlineReader(repo.store, "all").read({})["shop__value"].to_pylist() == [2]


@LAYOUTS
def test_lists_and_timestamps(tmp_path, flushed, packed):
    path = write_table(
        tmp_path / "t.parquet",
        {
            "user_id": ["a", "b", "c"],
            "event_timestamp": times([1, 1, 1]),
            "seen": times([5, None, 7]),
            "text": ["between", "", None],
            "items": pa.array([["x", "y"], [], None], pa.list_(pa.string())),
        },
    )
    schema = [
        Field(name="user_id", dtype=String),
        Field(name="seen", dtype=UnixTimestamp),
        Field(name="text", dtype=String),
        Field(name="items", dtype=Array(String)),
    ]
    stats = view(path, schema=schema)
    service = FeatureService(name="all", features=[stats])
    repo = Repo(tmp_path, [entity(), stats, service], online_store=online(packed))
    materialize(repo)
    asked = {"user_id": ["a", "b", "unknown", "c"]}
    reader = OnlineReader(repo.store, "all")
    for _ in range(2):
        block = reader.read(asked)
        columns = {name: block.column(name) for name in block}
        found = {name: list(column.values) for name, column in columns.items()}
        assert found["stats__items"] == [["x", "y"], [], None, None]
        assert found["stats__text"] == ["between", "", None, None]
        assert [value and value.timestamp() for value in found["stats__seen"]] == [
            at(5).timestamp(), None, None, at(7).timestamp(),
        ]  # fmt: skip
        present = [column.present.tolist() for column in columns.values()]
        assert present == [[a is not None for a in column] for column in found.values()]
        # What a push brings, as protobuf messages, is packed to the same bytes.
        before = {key: flushed.dump(key) for key in flushed.scan_iter(b"nb*")}
        repo.store.write_to_online_store("stats", pd.read_parquet(path))
        assert {key: flushed.dump(key) for key in before} == before


@LAYOUTS
def test_schema_that_changed_after_the_write(tmp_path, flushed, packed):
    path = everything(tmp_path, ROWS)
    stats = every_type_view(path)
    service = FeatureService(name="all", features=[stats])
    repo = Repo(tmp_path, [entity(), stats, service], online_store=online(packed))
    materialize(repo)
    shorter = view(
        path,
        schema=[Field(name="user_id", dtype=String), *EVERY_TYPE[:2]],
        created_timestamp_column="created",
    )
    repo.store.apply([shorter, FeatureService(name="all", features=[shorter])])
    block = OnlineReader(repo.store, "all").read({"user_id": ["u1"]})
    known = block["stats__small"].to_pylist()
    assert known == ([None] if packed else [7])  # never misread
    materialize(repo)
    block = OnlineReader(repo.store, "all").read({"user_id": ["u1"]})
    assert block["stats__small"].to_pylist() == [7]


@LAYOUTS
def test_unfit_requests(tmp_path, flushed, packed):
    reader = OnlineReader(three_views(tmp_path, packed).store, "all")
    with pytest.raises(NextbuyError, match="lacks the join key 'item_id'"):
        reader.read({"user_id": ["a"]})
    with pytest.raises(NextbuyError, match="different lengths"):
        reader.read({"user_id": ["a", "b"], "item_id": [1, 2, 3]})
    with pytest.raises(NextbuyError, match="'item_id' takes int"):
        reader.read({"user_id": ["a"], "item_id": ["x"]})
    assert reader.read({"user_id": [], "item_id": []}).table().num_rows == 0


def test_reader_on_another_store(tmp_path, data_folder):
    repo = three_views_on_sqlite(tmp_path)
    with pytest.raises(NextbuyError, match="NextbuyOnlineStore"):
        OnlineReader(repo.store, "all")


def three_views_on_sqlite(folder):
    stats = every_type_view(everything(folder, ROWS))
    service = FeatureService(name="all", features=[stats])
    lite = {"type": "sqlite", "path": str(folder / "o.db")}
    return Repo(folder, [entity(), stats, service], online_store=lite)
