"""The true probability behind every label, and the score that ranking by it reaches."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from generators.config import ShopConfig
from generators.intent import PurchaseInputs, World, purchase_probability
from generators.visits import ReturnDistribution
from nextbuy.times import DAY


@dataclass(frozen=True)
class TruthRows:
    """Arrays of one entry per (user, item, session)."""

    person: NDArray[np.int64]
    """Position in `Shoppers.names`."""
    item: NDArray[np.int64]
    time: NDArray[np.int64]
    """The session's last event, in microseconds."""
    probability: NDArray[np.float64]
    offered: NDArray[np.bool_]
    uplift: NDArray[np.float64]
    """What an offer adds to the probability; NaN in a shop without offers."""


def next_session_buys(
    config: ShopConfig,
    world: World,
    inputs: PurchaseInputs,
    returns: ReturnDistribution,
    entry: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Probability that the next session begins within the horizon and buys the item.

    `entry` is each item's row in `returns`. The sum over the days of the return is exact:
    the session draws its day and its purchases from the same two distributions.
    """
    away = np.arange(config.horizon_days + 1)
    day = (returns.end[entry] - config.begin)[:, None] // DAY + away
    buys = purchase_probability(world, inputs, np.broadcast_to(away, day.shape), day)
    total: NDArray[np.float64] = (returns.within(config.horizon_days)[entry] * buys).sum(axis=1)
    return total


class OracleScore:
    """Outcomes counted by their true probability, in constant memory."""

    LEVELS = 1 << 16

    def __init__(self) -> None:
        self._count = np.zeros((2, self.LEVELS), np.int64)

    def add(self, probability: NDArray[np.float64], label: NDArray[np.bool_]) -> None:
        """Count rows whose outcome is known."""
        level = np.round(probability * (self.LEVELS - 1)).astype(np.int64)
        for outcome in (0, 1):
            self._count[outcome] += np.bincount(level[label == outcome], minlength=self.LEVELS)

    @property
    def rows(self) -> int:
        """Rows counted."""
        return int(self._count.sum())

    @property
    def base_rate(self) -> float:
        """Share of positives; 0 without rows."""
        return float(self._count[1].sum() / max(self.rows, 1))

    @property
    def average_precision(self) -> float:
        """PR-AUC of ranking by the true probability; 0 without positives."""
        if not self._count[1].any():
            return 0.0
        label = np.repeat([0, 1], self.LEVELS)
        level = np.tile(np.arange(self.LEVELS), 2)
        weight = self._count.ravel()
        counted = weight > 0
        return float(
            average_precision_score(label[counted], level[counted], sample_weight=weight[counted])
        )
