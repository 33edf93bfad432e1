import numpy as np
import pytest

from nextbuy.contract import Calibration, log_odds
from nextbuy.models.calibration import calibrate

RNG = np.random.default_rng(5)


def test_a_known_distortion_is_undone():
    truth = RNG.beta(1, 12, 100_000)
    labels = (RNG.random(truth.size) < truth).astype(np.int8)
    distorted = 1 / (1 + np.exp(-(2.0 * log_odds(truth) + 1.0)))
    found = calibrate(labels, distorted)
    assert found.slope == pytest.approx(0.5, abs=0.02)
    assert found.intercept == pytest.approx(-0.5, abs=0.05)
    np.testing.assert_allclose(found.apply(distorted), truth, atol=0.03)


def test_too_few_positives_or_a_ranking_of_chance_change_nothing():
    scores = RNG.random(1000)
    few = np.zeros(1000, np.int8)
    few[:29] = 1
    assert calibrate(few, scores) == Calibration()
    assert calibrate((scores < 0.3).astype(np.int8), scores) == Calibration()


def test_the_ranking_stays_and_certainty_stays_finite():
    scores = np.array([0.0, 1e-9, 0.2, 0.5, 1.0])
    applied = Calibration(slope=0.7, intercept=2.0).apply(scores)
    assert np.isfinite(applied).all()
    assert (np.diff(applied) >= 0).all()
    assert Calibration().apply(scores) is scores
