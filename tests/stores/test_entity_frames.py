"""Entity frames as joins and filters leave them: keys as floats, columns and frames of nothing."""

from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import Field
from feast.types import Int64, String
from feast.value_type import ValueType

from nextbuy.errors import NextbuyError
from tests.shop import entity
from tests.stores.small_repo import Repo, at, frame, times, view, write_table

NUMBER = entity("customer", ValueType.INT64)
FIELDS = [Field(name="customer", dtype=Int64), Field(name="value", dtype=Int64)]


def numbered(folder, keys, kind=None, **more):
    path = write_table(
        folder / "numbers.parquet",
        {
            "customer": pa.array(keys, kind or pa.int64()),
            "event_timestamp": times([1] * len(keys)),
            "value": pa.array(range(len(keys)), pa.int64()),
        },
    )
    return Repo(folder, [NUMBER, view(path, "stats", [NUMBER], schema=FIELDS, **more)])


def named(folder):
    path = write_table(
        folder / "names.parquet",
        {"user_id": ["a", "b"], "event_timestamp": times([1, 1]), "value": pa.array([1, 2])},
    )
    return Repo(folder, [entity(), view(path)])


def retrieved(repo, rows, **kwargs):
    job = repo.store.get_historical_features(rows, ["stats:value"], **kwargs)
    return job.to_arrow()["value"].to_pylist()


def test_keys_that_a_left_join_made_floats(tmp_path):
    """Orders of guests have no customer: pandas makes 1, 2 and nothing to 1.0, 2.0 and NaN."""
    repo = numbered(tmp_path, [1, 2, -3])
    orders = pd.DataFrame({"order": [10, 11, 12, 13], "event_timestamp": [at(2)] * 4})
    customers = pd.DataFrame({"order": [10, 12, 13], "customer": [2, -3, 9]})
    joined = orders.merge(customers, how="left", on="order")
    assert joined["customer"].dtype == np.float64
    values = retrieved(repo, joined)
    assert values == [1, None, 2, None]
    job = repo.store.get_historical_features(joined, ["stats:value"])
    np.testing.assert_array_equal(job.to_df()["customer"], [2.0, np.nan, -3.0, 9.0])
    halves = frame([(1.5, 2), (1.0, 2), (np.inf, 2)], "customer")
    assert retrieved(repo, halves) == [None, 0, None]
    arrow = pa.table({"customer": pa.array([2.0, np.nan]), "event_timestamp": times([2, 2])})
    assert retrieved(repo, arrow) == [1, None]


def test_a_source_whose_keys_became_floats(tmp_path):
    repo = numbered(tmp_path, [1.0, None, 2.0], pa.float64())
    assert retrieved(repo, frame([(1, 2), (2, 2), (3, 2)], "customer")) == [0, 2, None]


def test_floats_that_may_have_been_another_key_are_refused(tmp_path):
    """2^53 + 1 as a float is 2^53; all below are themselves."""
    big = 2**53
    repo = numbered(tmp_path, [big - 1, big, big + 1])
    assert retrieved(repo, frame([(float(big - 1), 2)], "customer")) == [0]
    refused = r"'customer' .* floating-point and holds 9007199254740992"
    with pytest.raises(NextbuyError, match=refused):
        retrieved(repo, frame([(float(big + 1), 2)], "customer"))
    floats = numbered(tmp_path / "more", [float(big + 1)], pa.float64())
    with pytest.raises(NextbuyError, match=refused):
        retrieved(floats, frame([(big, 2)], "customer"))
    floats = numbered(tmp_path / "other", [float(big - 1)], pa.float64())
    assert retrieved(floats, frame([(big - 1, 2), (big + 1, 2)], "customer")) == [0, None]


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([None, None], dtype=object),
        pd.Series([np.nan, np.nan]),
        pd.Series([None, None], dtype="Int64"),
        pd.Series([None, None], dtype="string"),
        pd.Series([None, None], dtype="category"),
    ],
    ids=["object", "float", "Int64", "string", "category"],
)
def test_a_key_column_without_any_value(tmp_path, column):
    rows = pd.DataFrame({"event_timestamp": [at(2), at(3)], "keep": [1, 2]})
    for key, repo in (("user_id", named(tmp_path / "n")), ("customer", numbered(tmp_path, [1]))):
        job = repo.store.get_historical_features(rows.assign(**{key: column}), ["stats:value"])
        table = job.to_arrow()
        assert table["value"].to_pylist() == [None, None]
        assert table[key].null_count == 2
        assert table["keep"].to_pylist() == [1, 2]


def test_a_frame_that_a_filter_left_empty(tmp_path):
    full = pd.DataFrame(
        {"user_id": ["a", "b"], "event_timestamp": [at(2), at(3)], "price": [1.0, 2.0]}
    )
    repo = named(tmp_path)
    assert retrieved(repo, full) == [1, 2]
    empties = [
        full[full["price"] > 5],
        full[full["price"] > 5].assign(user_id=pd.Series(dtype=float)),
        pd.DataFrame({"user_id": [], "event_timestamp": []}),
        pd.DataFrame(columns=["user_id", "event_timestamp"]),
        pa.Table.from_pandas(full, preserve_index=False).slice(0, 0),
        "SELECT 'a' AS user_id, now() AS event_timestamp WHERE false",
    ]
    for empty in empties:
        job = repo.store.get_historical_features(empty, ["stats:value"], full_feature_names=True)
        table = job.to_arrow()
        assert table.num_rows == 0
        assert {"user_id", "event_timestamp", "stats__value"} <= set(table.column_names)
        assert job.to_df().empty
    empty = retrieved(numbered(tmp_path / "n", [1]), frame([], "customer"))
    assert empty == []


def test_keys_of_another_type_are_still_refused(tmp_path):
    with pytest.raises(NextbuyError, match="'user_id' is DOUBLE in the entity frame and VARCHAR"):
        retrieved(named(tmp_path), frame([(1.0, 2), (np.nan, 2)]))
    with pytest.raises(NextbuyError, match="'customer' is VARCHAR in the entity frame and BIGINT"):
        retrieved(numbered(tmp_path, [1]), frame([("1", 2)], "customer"))


def test_dates_instead_of_a_frame_give_a_row_for_each_key_and_time(tmp_path):
    """What docs/stores.md says; stock's DuckDB store refuses, its dask store gives the last row."""
    path = write_table(
        tmp_path / "t.parquet",
        {
            "user_id": ["a", "a", "b", "a"],
            "event_timestamp": times([1, 3, 3, 30]),
            "value": pa.array([1, 2, 3, 4]),
        },
    )
    repo = Repo(tmp_path, [entity(), view(path, ttl=timedelta(hours=5))])
    found = repo.store.get_historical_features(
        features=["stats:value"], start_date=at(2), end_date=at(20)
    ).to_df()
    rows = found[["user_id", "event_timestamp", "value"]].values.tolist()
    assert rows == [["a", pd.Timestamp(at(3)), 2], ["b", pd.Timestamp(at(3)), 3]]


def test_two_versions_in_one_retrieval_are_told_what_to_do(tmp_path):
    path = write_table(
        tmp_path / "t.parquet",
        {"user_id": ["a"], "event_timestamp": times([1]), "value": pa.array([1])},
    )
    on = {"enable_online_feature_view_versioning": True}
    registry = {"registry_type": "file", "path": str(tmp_path / "r.db"), **on}
    repo = Repo(tmp_path, [entity(), view(path)], registry=registry)
    typed = [Field(name="user_id", dtype=String), *FIELDS[1:], Field(name="more", dtype=Int64)]
    repo.store.apply([view(path, schema=typed)])
    refs = ["stats@v0:value", "stats@v1:value"]
    with pytest.raises(NextbuyError) as refused:
        repo.store.get_historical_features(frame([("a", 2)]), refs, full_feature_names=True).to_df()
    assert "versions of one view: stats@v0, stats@v1" in str(refused.value)
    assert "full_feature_names" not in str(refused.value)
