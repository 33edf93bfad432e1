"""What a ranking and its probabilities are worth, with intervals by shopper."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nextbuy.models.metrics import expected_calibration_error, precision_at_top, top_weights

Vector = NDArray[np.float64]
Labels = NDArray[np.int8]
Metric = Callable[[Labels, Vector, Vector], float]
"""(labels, scores, row weights) -> value."""
Interval = dict[str, float]
"""`{"value", "low", "high"}`: 95 %, by bootstrap over shoppers."""


def average_precision(labels: Labels, scores: Vector, weights: Vector) -> float:
    """As scikit-learn's, at a tenth of its time: an interval needs hundreds."""
    positives, rows = _cumulated(labels, scores, weights)
    gains = np.diff(positives, prepend=0.0)
    return float((gains * positives / rows).sum() / positives[-1])


def roc_auc(labels: Labels, scores: Vector, weights: Vector) -> float:
    """As scikit-learn's, at a tenth of its time."""
    positives, rows = _cumulated(labels, scores, weights)
    true_rate, false_rate = (
        np.concatenate([[0.0], part / part[-1]]) for part in (positives, rows - positives)
    )
    return float(np.trapezoid(true_rate, false_rate))


def _cumulated(labels: Labels, scores: Vector, weights: Vector) -> tuple[Vector, Vector]:
    """Weight of the positives and of all rows down to each distinct score, the highest first."""
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.diff(scores[order], append=np.nan))  # equal scores are one step
    weight = weights[order]
    return np.cumsum(weight * labels[order])[last], np.cumsum(weight)[last]


def recall_at_top(labels: Labels, scores: Vector, weights: Vector) -> float:
    """Share of all positives that the top `TOP_SHARE` of the rows hold."""
    chosen = top_weights(scores, weights)
    return float((chosen * labels).sum() / (weights * labels).sum())


RANKING: Mapping[str, Metric] = {
    "pr_auc": average_precision,
    "roc_auc": roc_auc,
    "precision_at_5": precision_at_top,
    "recall_at_5": recall_at_top,
    "lift_at_5": lambda y, s, w: precision_at_top(y, s, w) / float((w * y).sum() / w.sum()),
}
"""Metrics of the order alone."""

PROBABILITY: Mapping[str, Metric] = {
    "log_loss": lambda y, s, w: float(
        -np.average(np.log(np.clip(np.where(y == 1, s, 1 - s), 1e-15, 1)), weights=w)
    ),
    "brier": lambda y, s, w: float(np.average((y - s) ** 2, weights=w)),
    "calibration_error": expected_calibration_error,
}
"""Metrics that need probabilities."""


@dataclass(frozen=True)
class Sample:
    """Test rows as metrics need them: labels, and whose session each row belongs to."""

    labels: Labels
    users: NDArray[np.object_]
    moments: NDArray[np.int64]
    """End of the session, in any unit: with the user it tells sessions apart."""

    @property
    def sessions(self) -> NDArray[np.int64]:
        """Code of each row's session, shape (rows,)."""
        users = np.unique(self.users.astype(str), return_inverse=True)[1]
        pairs = np.column_stack([users, np.unique(self.moments, return_inverse=True)[1]])
        return np.asarray(np.unique(pairs, axis=0, return_inverse=True)[1]).ravel()

    def where(self, kept: NDArray[np.bool_]) -> "Sample":
        """Some of the rows."""
        return Sample(self.labels[kept], self.users[kept], self.moments[kept])

    @property
    def has_both_classes(self) -> bool:
        """Whether there is anything to rank."""
        return bool(0 < self.labels.sum() < len(self.labels))


def resamples(users: NDArray[np.object_], count: int = 100, seed: int = 7) -> Iterator[Vector]:
    """Bootstrap weights of the rows, whole shoppers drawn with replacement.

    Rows of one shopper hang together, so resampling rows would give intervals that are too narrow.
    """
    _, codes = np.unique(users.astype(str), return_inverse=True)
    n_users = int(codes.max()) + 1
    rng = np.random.default_rng(seed)
    for _ in range(count):
        drawn = np.bincount(rng.integers(0, n_users, n_users), minlength=n_users)
        yield drawn[codes].astype(float)


def with_intervals(
    labels: Labels,
    scores: Vector,
    users: NDArray[np.object_],
    metrics: Mapping[str, Metric],
    count: int = 100,
) -> dict[str, Interval]:
    """Each metric with its 95 % bootstrap interval by shopper.

    Returns:
        metric -> `{"value", "low", "high"}`.
    """
    scores, ones = np.asarray(scores, np.float64), np.ones(len(labels))
    drawn: dict[str, list[float]] = {name: [] for name in metrics}
    for weights in resamples(users, count):
        kept = weights > 0
        if not 0 < labels[kept].sum() < kept.sum():
            continue  # a draw with one class has no ranking
        for name, metric in metrics.items():
            drawn[name].append(metric(labels[kept], scores[kept], weights[kept]))
    return {
        name: interval(metric(labels, scores, ones), drawn[name])
        for name, metric in metrics.items()
    }


def paired_difference(
    sample: Sample, first: Vector, second: Vector, metric: Metric, count: int = 200
) -> Interval:
    """`metric(first) - metric(second)` with its interval: both scores on the same resamples."""
    labels = sample.labels
    drawn = []
    for weights in resamples(sample.users, count):
        kept = weights > 0
        if 0 < labels[kept].sum() < kept.sum():
            values = [metric(labels[kept], s[kept], weights[kept]) for s in (first, second)]
            drawn.append(values[0] - values[1])
    ones = np.ones(len(labels))
    return interval(metric(labels, first, ones) - metric(labels, second, ones), drawn)


def session_ranking(sample: Sample, scores: Vector) -> dict[str, Interval]:
    """NDCG and hit rate within a shopper's session, with intervals by shopper.

    Over sessions that touched several items, one of which is bought next time: `ndcg_10`
    (Järvelin and Kekäläinen, 2002) of the items ranked by score, and `hit_rate_1`, the share of
    sessions whose first item is bought. Ties are broken by the order of the rows.
    """
    code = sample.sessions
    order = np.lexsort((-np.asarray(scores), code))
    size = np.bincount(code)
    start = np.cumsum(size) - size
    rank = np.arange(len(order)) - np.repeat(start, size)
    label = sample.labels[order].astype(float)
    gain = np.where(rank < 10, 1 / np.log2(rank + 2.0), 0.0)
    reached = np.add.reduceat(label * gain, start)
    positives = np.bincount(code, sample.labels).astype(int)
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, 12)))])[
        np.minimum(positives, 10)
    ]
    ranked = (positives > 0) & (size > 1)
    if not ranked.any():
        return {}
    values = {"ndcg_10": reached[ranked] / ideal[ranked], "hit_rate_1": label[start][ranked]}
    users = sample.users[order][start][ranked]
    drawn: dict[str, list[float]] = {name: [] for name in values}
    for weights in resamples(users):
        for name, value in values.items():
            drawn[name].append(float(np.average(value, weights=weights)))
    return {name: interval(float(value.mean()), drawn[name]) for name, value in values.items()}


def interval(value: float, drawn: Sequence[float]) -> Interval:
    """A value with the middle 95 % of its resamples."""
    low, high = np.quantile(drawn, [0.025, 0.975]) if drawn else (np.nan, np.nan)
    return {"value": value, "low": float(low), "high": float(high)}
