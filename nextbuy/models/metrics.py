"""Metrics that training and monitoring both report, defined once."""

import numpy as np
from numpy.typing import NDArray

TOP_SHARE = 0.05
"""Share of the rows, the likeliest ones, that precision and recall at the top look at."""
CALIBRATION_BINS = 15


def top_weights(scores: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weight with which each row is in the top share; a tie at its edge is taken in part.

    Args:
        scores: shape (rows,).
        weights: of the rows, shape (rows,); ones count each row once.
    """
    order = np.argsort(-scores, kind="stable")
    start = np.unique(-scores[order], return_index=True)[1]
    group = np.add.reduceat(weights[order], start)
    before = np.concatenate([[0.0], np.cumsum(group)[:-1]])
    top = TOP_SHARE * weights.sum()
    share = np.clip((top - before) / np.where(group > 0, group, 1.0), 0.0, 1.0)
    sizes = np.diff(np.append(start, len(order)))
    chosen = np.empty_like(weights)
    chosen[order] = np.repeat(share, sizes) * weights[order]
    return chosen


def precision_at_top(
    labels: NDArray[np.int8] | NDArray[np.float64],
    scores: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> float:
    """Share of positives among the top `TOP_SHARE` of the rows; ties count in proportion.

    With the probabilities in the place of the labels, the share to be expected.
    """
    chosen = top_weights(scores, weights)
    return float((chosen * labels).sum() / chosen.sum())


def calibration_bins(
    scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> list[NDArray[np.intp]]:
    """The rows by score, cut into `CALIBRATION_BINS` bins of equal weight; no bin is empty."""
    order = np.argsort(scores, kind="stable")
    edges = np.linspace(0, weights.sum(), CALIBRATION_BINS + 1)[1:-1]
    parts = np.split(order, np.searchsorted(np.cumsum(weights[order]), edges))
    return [part for part in parts if len(part)]


def calibration_curve(
    labels: NDArray[np.int8] | NDArray[np.float64], scores: NDArray[np.float64]
) -> list[tuple[float, float, int]]:
    """(mean score, share of positives, rows) of each bin of `calibration_bins`, in rising order."""
    return [
        (float(scores[part].mean()), float(labels[part].mean()), len(part))
        for part in calibration_bins(scores, np.ones(len(scores)))
    ]


def expected_calibration_error(
    labels: NDArray[np.int8] | NDArray[np.float64],
    scores: NDArray[np.float64],
    weights: NDArray[np.float64],
) -> float:
    """Mean distance of the predicted and the observed share over the calibration bins."""
    parts = calibration_bins(scores, weights)
    gaps = [abs((weights[part] * (labels[part] - scores[part])).sum()) for part in parts]
    return float(sum(gaps) / weights.sum())
