"""What a ranking and its probabilities are worth, with intervals by shopper."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score

Vector = NDArray[np.float64]
Labels = NDArray[np.int8]
Metric = Callable[[Labels, Vector, Vector], float]
"""(labels, scores, row weights) -> value."""

TOP = 0.05
"""Share of the rows that precision and recall at k look at."""


def precision_at_top(labels: Labels, scores: Vector, weights: Vector) -> float:
    """Share of positives among the top `TOP` of the rows; ties count in proportion."""
    chosen = _chosen(scores, weights)
    return float((chosen * labels).sum() / chosen.sum())


def recall_at_top(labels: Labels, scores: Vector, weights: Vector) -> float:
    """Share of all positives that the top `TOP` of the rows hold."""
    chosen = _chosen(scores, weights)
    return float((chosen * labels).sum() / (weights * labels).sum())


def expected_calibration_error(labels: Labels, scores: Vector, weights: Vector) -> float:
    """Mean distance of predicted and observed share over 15 bins of equal weight."""
    order = np.argsort(scores, kind="stable")
    label, score, weight = labels[order], scores[order], weights[order]
    edges = np.linspace(0, weight.sum(), 16)[1:-1]
    parts = np.split(np.arange(len(order)), np.searchsorted(np.cumsum(weight), edges))
    gaps = [abs((weight[p] * (label[p] - score[p])).sum()) for p in parts if len(p)]
    return float(sum(gaps) / weight.sum())


def _chosen(scores: Vector, weights: Vector) -> Vector:
    """Weight with which each row is in the top share; a tie at its edge is taken in part."""
    order = np.argsort(-scores, kind="stable")
    values, start = np.unique(-scores[order], return_index=True)
    del values
    group = np.add.reduceat(weights[order], start)
    before = np.concatenate([[0.0], np.cumsum(group)[:-1]])
    wanted = TOP * weights.sum()
    share = np.clip((wanted - before) / np.where(group > 0, group, 1.0), 0.0, 1.0)
    sizes = np.diff(np.append(start, len(order)))
    chosen = np.empty_like(weights)
    chosen[order] = np.repeat(share, sizes) * weights[order]
    return chosen


RANKING: Mapping[str, Metric] = {
    "pr_auc": lambda y, s, w: float(average_precision_score(y, s, sample_weight=w)),
    "roc_auc": lambda y, s, w: float(roc_auc_score(y, s, sample_weight=w)),
    "precision_at_5": precision_at_top,
    "recall_at_5": recall_at_top,
}
"""Metrics of the order alone."""

PROBABILITY: Mapping[str, Metric] = {
    "log_loss": lambda y, s, w: float(
        log_loss(y, np.clip(s, 1e-15, 1 - 1e-15), sample_weight=w, labels=[0, 1])
    ),
    "brier": lambda y, s, w: float(brier_score_loss(y, s, sample_weight=w)),
    "calibration_error": expected_calibration_error,
}
"""Metrics that need probabilities."""


def with_intervals(
    labels: Labels,
    scores: Vector,
    users: NDArray[np.object_],
    metrics: Mapping[str, Metric],
    *,
    resamples: int = 100,
    seed: int = 7,
) -> dict[str, dict[str, float]]:
    """Each metric with its 95 % bootstrap interval, whole shoppers drawn with replacement.

    Rows of one shopper hang together, so resampling rows would give intervals that are too narrow.

    Returns:
        metric -> `{"value", "low", "high"}`.
    """
    scores = np.asarray(scores, np.float64)
    _, codes = np.unique(users.astype(str), return_inverse=True)
    n_users = int(codes.max()) + 1
    rng = np.random.default_rng(seed)
    ones = np.ones(len(labels))
    drawn: dict[str, list[float]] = {name: [] for name in metrics}
    for _ in range(resamples):
        weights = np.bincount(rng.integers(0, n_users, n_users), minlength=n_users)[codes]
        kept = weights > 0
        if not 0 < labels[kept].sum() < kept.sum():
            continue  # a draw with one class has no ranking
        for name, metric in metrics.items():
            drawn[name].append(metric(labels[kept], scores[kept], weights[kept].astype(float)))
    return {
        name: {
            "value": metric(labels, scores, ones),
            "low": float(np.quantile(drawn[name], 0.025)),
            "high": float(np.quantile(drawn[name], 0.975)),
        }
        for name, metric in metrics.items()
    }
