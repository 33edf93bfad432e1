import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    log_loss,
    roc_auc_score,
)

from nextbuy.models.metrics import (
    CALIBRATION_BINS,
    calibration_curve,
    expected_calibration_error,
    precision_at_top,
)
from training.metrics import PROBABILITY, RANKING, recall_at_top, with_intervals

RNG = np.random.default_rng(1)


def test_precision_and_recall_of_a_perfect_ranking():
    labels = np.zeros(100, np.int8)
    labels[:10] = 1
    scores, ones = np.linspace(1, 0, 100), np.ones(100)
    assert precision_at_top(labels, scores, ones) == 1.0
    assert recall_at_top(labels, scores, ones) == 0.5


def test_a_constant_score_is_worth_the_base_rate_whatever_the_order_of_rows():
    labels = np.zeros(200, np.int8)
    labels[:20] = 1
    assert precision_at_top(labels, np.zeros(200), np.ones(200)) == pytest.approx(0.1)
    assert recall_at_top(labels, np.zeros(200), np.ones(200)) == pytest.approx(0.05)


def test_a_row_of_weight_two_is_two_rows():
    labels = RNG.integers(0, 2, 50).astype(np.int8)
    scores, weights = RNG.random(50), RNG.integers(1, 4, 50)
    twice = np.repeat(np.arange(50), weights)
    for name, metric in {**RANKING, **PROBABILITY}.items():
        if name == "calibration_error":
            continue  # its bins may cut between two copies of a row
        wanted = metric(labels[twice], scores[twice], np.ones(len(twice)))
        assert metric(labels, scores, weights.astype(float)) == pytest.approx(wanted), name


@pytest.mark.parametrize("decimals", [1, 9])  # with and without ties
def test_metrics_written_anew_for_speed_are_those_of_sklearn(decimals):
    labels, scores = RNG.integers(0, 2, 300).astype(np.int8), RNG.random(300).round(decimals)
    weights = RNG.random(300)
    for ours, theirs in {
        RANKING["pr_auc"]: average_precision_score,
        RANKING["roc_auc"]: roc_auc_score,
        PROBABILITY["log_loss"]: log_loss,
        PROBABILITY["brier"]: brier_score_loss,
    }.items():
        scores = np.clip(scores, 0.01, 0.99)
        wanted = theirs(labels, scores, sample_weight=weights)
        assert ours(labels, scores, weights) == pytest.approx(wanted)


def test_calibration_error_of_true_probabilities_is_small_and_of_wrong_ones_is_the_shift():
    p = RNG.random(200_000) * 0.5
    labels = (RNG.random(p.size) < p).astype(np.int8)
    ones = np.ones(p.size)
    assert expected_calibration_error(labels, p, ones) < 0.01
    assert expected_calibration_error(labels, p + 0.2, ones) == pytest.approx(0.2, abs=0.01)


def test_the_calibration_curve_is_what_the_calibration_error_sums_up():
    p = RNG.random(1_007)
    labels = (RNG.random(p.size) < p**2).astype(np.int8)
    curve = calibration_curve(labels, p)
    assert len(curve) == CALIBRATION_BINS
    assert max(n for _, _, n in curve) - min(n for _, _, n in curve) <= 1
    assert [score for score, _, _ in curve] == sorted(score for score, _, _ in curve)
    error = sum(abs(share - score) * n for score, share, n in curve) / p.size
    assert error == pytest.approx(expected_calibration_error(labels, p, np.ones(p.size)))
    assert len(calibration_curve(labels[:4], p[:4])) == 4


def test_the_expected_precision_at_the_top_takes_probabilities_for_labels():
    p = np.linspace(1, 0, 200)
    assert precision_at_top(p, p, np.ones(200)) == pytest.approx(p[:10].mean())


def test_intervals_hold_the_value_and_are_the_same_for_the_same_seed():
    labels = (RNG.random(500) < 0.2).astype(np.int8)
    scores = RNG.random(500) + labels * 0.3
    users = np.array([f"u{i % 60}" for i in range(500)], object)
    first = with_intervals(labels, scores, users, RANKING)
    assert first == with_intervals(labels, scores, users, RANKING)
    for metric in first.values():
        assert metric["low"] <= metric["value"] <= metric["high"]
