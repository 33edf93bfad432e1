import numpy as np
import pytest

from nextbuy.errors import NextbuyError
from training.uplift import qini, qini_curve

RNG = np.random.default_rng(3)


def arms(n=60_000):
    """Half of the rows are moved by an offer, from 10 % to 30 %; the others buy anyway, at 40 %."""
    moved, treated = RNG.random(n) < 0.5, RNG.random(n) < 0.5
    chance = np.where(moved, 0.1 + 0.2 * treated, 0.4)
    return moved, treated, (RNG.random(n) < chance).astype(np.int8)


def test_qini_of_a_known_effect():
    moved, treated, labels = arms()
    ones = np.ones(len(labels))
    _, gain = qini_curve(labels, treated, moved.astype(float), ones)
    # All of the effect lies in the first half: 0.2 for each treated row of it.
    assert gain[len(gain) // 2] == pytest.approx(0.5 * 0.5 * 0.2, rel=0.1)
    assert gain[-1] == pytest.approx(0.5 * 0.5 * 0.2, rel=0.15)
    best = qini(labels, treated, moved.astype(float), ones)
    assert best == pytest.approx(0.05 / 4, rel=0.15)  # a triangle above the diagonal
    # Who will buy anyway is not who is moved.
    assert qini(labels, treated, (~moved).astype(float), ones) == pytest.approx(-best, rel=0.15)
    assert abs(qini(labels, treated, RNG.random(len(labels)), ones)) < 0.2 * best


def test_weights_count_rows():
    _, treated, labels = arms(200)
    score, weights = RNG.random(200), RNG.integers(1, 4, 200)
    twice = np.repeat(np.arange(200), weights)
    wanted = qini_curve(labels[twice], treated[twice], score[twice], np.ones(len(twice)))
    found = qini_curve(labels, treated, score, weights.astype(float))
    at = np.cumsum(weights[np.argsort(-score)])
    np.testing.assert_allclose(found[1][1:], wanted[1][at])


def test_without_a_simulated_shop_the_message_says_how_to_get_one(settings):
    from tests.training.small_dataset import dataset
    from training.config import TrainConfig
    from training.uplift import uplift

    with pytest.raises(NextbuyError, match="offer-share"):
        uplift(settings, dataset(rows=500), TrainConfig(), "lightgbm")
