"""Where a model is good and where not: slices of the test rows, and sessions instead of rows."""

from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextbuy.features.columns import IS_IN_CART, ITEM_CATEGORY, USER_SESSIONS
from nextbuy.shop_clock import UTC_CLOCK, ShopClock
from training.metrics import (
    RANKING,
    Interval,
    Labels,
    Sample,
    Vector,
    paired_difference,
    with_intervals,
)

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MAX_CATEGORIES = 8
"""Categories that get a slice of their own, the most frequent first."""
MIN_POSITIVES_TO_REPORT = 20
"""Slices with fewer positives are not reported."""
SESSION_METRICS = {name: RANKING[name] for name in ("pr_auc", "roc_auc")}

RowMask = NDArray[np.bool_]
"""Which rows belong to a slice, shape (rows,)."""


def slices(
    table: pa.Table, labels: Labels, clock: ShopClock = UTC_CLOCK
) -> Iterator[tuple[str, RowMask]]:
    """Name and rows of each slice that holds enough positives and any negative.

    Weekdays are by the shop's clock. Slices by a feature that the log lacks are left out.
    """
    for name, rows in _cuts(table, clock):
        positives = int(labels[rows].sum())
        if MIN_POSITIVES_TO_REPORT <= positives < rows.sum():
            yield name, rows


def _cuts(table: pa.Table, clock: ShopClock) -> Iterator[tuple[str, RowMask]]:
    def column(name: str) -> NDArray[np.float64] | None:
        if name not in table.column_names:
            return None
        return np.asarray(table[name].cast(pa.float64(), safe=False).to_numpy(), np.float64)

    sessions = column(USER_SESSIONS)
    if sessions is not None:
        yield "first session", sessions <= 1
        yield "returning shopper", sessions > 1
    cart = column(IS_IN_CART)
    if cart is not None:
        yield "in the cart", cart == 1
        yield "not in the cart", cart != 1
    moments = table["event_timestamp"].cast(pa.int64()).to_pylist()
    weekday = np.array([clock.weekday(moment) for moment in moments])
    for day, name in enumerate(WEEKDAYS):
        yield name, weekday == day
    if ITEM_CATEGORY in table.column_names:
        category = np.array(table[ITEM_CATEGORY].to_pylist(), object)
        counted = Counter(name for name in category if name is not None)
        for name, _ in sorted(counted.items(), key=lambda c: (-c[1], c[0]))[:MAX_CATEGORIES]:
            yield f"category {name}", category == name


def session_level(
    sample: Sample, scores: Mapping[str, Vector], model: str
) -> dict[str, dict[str, Interval]]:
    """PR-AUC and ROC-AUC per score for "the next session buys one of these items".

    A row a session, positive where any item is. Probabilities combine to `1 - prod(1 - p)`, as if
    items were bought independently; any other score stands for its best item.

    Returns:
        name -> metric -> interval, and under `difference to NAME` the paired difference of the
        PR-AUC of `model` and the best other; empty where there is one class only.
    """
    code = sample.sessions
    first = np.unique(code, return_index=True)[1]
    positives = np.bincount(code, sample.labels)
    whole = Sample((positives > 0).astype(np.int8), sample.users[first], sample.moments[first])
    if not whole.has_both_classes:
        return {}
    combined = {name: _combine(code, np.asarray(s, np.float64)) for name, s in scores.items()}
    metrics = {
        name: with_intervals(whole.labels, score, whole.users, SESSION_METRICS)
        for name, score in combined.items()
    }
    others = {name: m["pr_auc"]["value"] for name, m in metrics.items() if name != model}
    best = max(others, key=lambda name: others[name])
    gain = paired_difference(whole, combined[model], combined[best], SESSION_METRICS["pr_auc"])
    return {**metrics, f"difference to {best}": {"pr_auc": gain}}


def _combine(code: NDArray[np.int64], score: Vector) -> Vector:
    if score.min() >= 0 and score.max() <= 1 and len(np.unique(score)) > 2:
        log_none = np.bincount(code, np.log1p(-np.minimum(score, 1 - 1e-12)))
        return np.asarray(-np.expm1(log_none), np.float64)
    best = np.full(code.max() + 1, -np.inf)
    np.maximum.at(best, code, score)
    return best
