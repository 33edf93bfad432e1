import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import average_precision_score

from nextbuy.models.booster import fit_booster
from nextbuy.models.families import FAMILIES
from nextbuy.models.family import ModelConfig
from training.train import contract_for

CONFIG = ModelConfig(rounds=60, learning_rate=0.2, column_share=1.0, threads=1)


def shop(n, seed, shuffled=False):
    rng = np.random.default_rng(seed)
    cart, brand = rng.integers(0, 2, n), rng.choice(["acme", "zen", "other"], n)
    label = (rng.random(n) < 0.02 + 0.3 * cart * (brand == "zen")).astype(np.int8)
    if shuffled:
        rng.shuffle(label)
    noise = rng.random(n)
    table = pa.table({"v__cart": cart, "v__brand": brand, "v__noise": noise})
    return table, label


@pytest.mark.parametrize("family", FAMILIES)
def test_one_known_rule_is_recovered(family):
    train, held = shop(20_000, 1), shop(20_000, 2)
    contract = contract_for(train[0], tuple(train[0].column_names), "s", family, CONFIG)
    encoded = [(contract.matrix(table), label) for table, label in (train, held)]
    score = fit_booster(contract, *encoded, CONFIG).predict(encoded[1][0])
    ruled = (held[0]["v__cart"].to_numpy() == 1) & (np.array(held[0]["v__brand"]) == "zen")
    assert score[ruled].mean() == pytest.approx(0.32, abs=0.03)
    assert score[~ruled].mean() == pytest.approx(0.02, abs=0.01)


@pytest.mark.parametrize("family", FAMILIES)
def test_shuffled_labels_give_the_base_rate(family):
    train, held = shop(20_000, 1, shuffled=True), shop(20_000, 2, shuffled=True)
    contract = contract_for(train[0], tuple(train[0].column_names), "s", family, CONFIG)
    encoded = [(contract.matrix(table), label) for table, label in (train, held)]
    score = fit_booster(contract, *encoded, CONFIG).predict(encoded[1][0])
    base = held[1].mean()
    assert average_precision_score(held[1], score) == pytest.approx(base, rel=0.15)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_model_to_the_last_digit(family):
    train, held = shop(3_000, 1), shop(3_000, 2)
    contract = contract_for(train[0], tuple(train[0].column_names), "s", family, CONFIG)
    encoded = [(contract.matrix(table), label) for table, label in (train, held)]
    first, second = (
        fit_booster(contract, *encoded, CONFIG).predict(encoded[1][0]) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("family", FAMILIES)
def test_reasons_are_shared_fairly_by_what_decides_together(family):
    """Both of two conditions must hold: each has half of the effect, whichever the tree asks first.

    What an approximation gives depends on that order.
    """
    left, right = np.tile([0, 0, 1, 1], 500), np.tile([0, 1, 0, 1], 500)
    table = pa.table({"v__left": left, "v__right": right})
    label = (left * right).astype(np.int8)
    config = ModelConfig(
        rounds=1, learning_rate=1, depth=2, min_child_rows=20, row_share=1, column_share=1,
        l2=1e-6, threads=1,
    )  # fmt: skip
    contract = contract_for(table, tuple(table.column_names), "s", family, config)
    matrix = contract.matrix(table)
    booster = fit_booster(contract, (matrix, label), (matrix, label), config)
    both, neither = booster.contributions(np.array([[1, 1], [0, 0]], np.float32))
    assert both[0] > 0
    assert both[0] == pytest.approx(both[1], rel=1e-5)
    assert neither[0] == pytest.approx(neither[1], rel=1e-5)
