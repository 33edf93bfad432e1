import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from nextbuy.features import user
from nextbuy.models.family import ModelConfig
from tests.training.small_dataset import dataset
from training.baselines import rule_scores, time_and_position_scores
from training.train import contract_for


def test_time_and_position_see_neither_shopper_nor_item():
    data = dataset()
    train, test = data.part("train"), data.part("test")
    contract = contract_for(train, data.features, "s", "lightgbm", ModelConfig())
    score = time_and_position_scores(contract, train, data.labels("train"), test)
    base = data.labels("test").mean()
    assert average_precision_score(data.labels("test"), score) < 1.3 * base
    assert (score > 0).all()


def test_rules_rank_by_their_feature_and_a_log_without_it_has_no_such_rule():
    test = dataset().part("test")
    rules = rule_scores(test)
    assert set(rules) == {"was in the cart"}
    cart = test["user_item__is_in_cart"].to_numpy(zero_copy_only=False)
    np.testing.assert_array_equal(rules["was in the cart"], cart.astype(float))


def test_a_feature_named_outside_its_folder_must_exist():
    assert user.TABLE.full_name("n_sessions") == "user__n_sessions"
    with pytest.raises(KeyError, match="user has no feature 'n_wishes'"):
        user.TABLE.full_name("n_wishes")
