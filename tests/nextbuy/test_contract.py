import numpy as np
import pyarrow as pa
import pytest

from nextbuy.contract import ModelContract

CONTRACT = ModelContract(
    feature_service="s",
    features=("user__n", "item__brand", "user__is_x"),
    categories={"item__brand": ("acme", "zen")},
    family="xgboost",
)


def test_columns_come_in_the_order_of_the_contract():
    table = pa.table(
        {"user__is_x": [True, None], "item__brand": ["zen", "new"], "user__n": [3, None]}
    )
    wanted = np.array([[3, 1, 1], [np.nan, np.nan, np.nan]], np.float32)
    np.testing.assert_array_equal(CONTRACT.matrix(table), wanted)


def test_lists_and_tables_are_encoded_alike():
    columns = {"user__n": [1, None], "item__brand": [None, "acme"], "user__is_x": [False, True]}
    np.testing.assert_array_equal(CONTRACT.matrix(columns), CONTRACT.matrix(pa.table(columns)))


def test_a_column_without_any_value_is_missing():
    columns = {"user__n": [None], "item__brand": [None], "user__is_x": [None]}
    assert np.isnan(CONTRACT.matrix(columns)).all()


def test_an_absent_feature_is_named():
    with pytest.raises(KeyError, match="item__brand, user__is_x"):
        CONTRACT.matrix({"user__n": [1]})
