"""From items to whole sessions: does the shopper's next session hold a purchase at all?"""

from collections.abc import Mapping

import numpy as np

from training.metrics import RANKING, Interval, Sample, Vector, paired_difference, with_intervals

METRICS = {name: RANKING[name] for name in ("pr_auc", "roc_auc")}


def session_level(
    sample: Sample, scores: Mapping[str, Vector], named: str
) -> dict[str, dict[str, Interval]]:
    """PR-AUC and ROC-AUC per score for "the next session buys one of these items".

    A row a session, positive where any item is. Probabilities combine to `1 - prod(1 - p)`, as if
    items were bought independently; any other score stands for its best item.

    Returns:
        name -> metric -> interval, and under `difference to NAME` the paired difference of the
        PR-AUC of `named` and the best other; empty where there is one class only.
    """
    code = sample.sessions
    first = np.unique(code, return_index=True)[1]
    positives = np.bincount(code, sample.labels)
    whole = Sample((positives > 0).astype(np.int8), sample.users[first], sample.moments[first])
    if not whole.has_both_classes:
        return {}
    combined = {name: _combine(code, np.asarray(s, np.float64)) for name, s in scores.items()}
    found = {n: with_intervals(whole.labels, s, whole.users, METRICS) for n, s in combined.items()}
    others = {n: v["pr_auc"]["value"] for n, v in found.items() if n != named}
    best = max(others, key=lambda name: others[name])
    gain = paired_difference(whole, combined[named], combined[best], METRICS["pr_auc"])
    return {**found, f"difference to {best}": {"pr_auc": gain}}


def _combine(code: np.ndarray, score: Vector) -> Vector:
    if score.min() >= 0 and score.max() <= 1 and len(np.unique(score)) > 2:
        log_none = np.bincount(code, np.log1p(-np.minimum(score, 1 - 1e-12)))
        return np.asarray(-np.expm1(log_none), np.float64)
    best = np.full(code.max() + 1, -np.inf)
    np.maximum.at(best, code, score)
    return best
