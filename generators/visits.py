"""When a shopper comes back, if at all: one distribution, drawn from and summed over."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generators.config import MAX_AWAY, ShopConfig
from generators.rhythm import draw_time_of_day, share_begun
from nextbuy.times import DAY

SAME_DAY = 0.06
"""Probability of coming back later on the same day."""
ATTRITION_DAYS = 25.0
"""Time constant with which interest in the shop fades: some shoppers never come back."""
CART_PULL = 1.35
"""Shoppers with a full cart come back sooner."""


@dataclass(frozen=True)
class ReturnDistribution:
    """Distribution of the next session's start, for shoppers whose session has just ended."""

    end: NDArray[np.int64]
    pause: int
    """Shortest pause between two sessions, in microseconds."""
    by_day: NDArray[np.float64]
    """(shoppers, MAX_AWAY + 1): probability of coming back on the n-th day after the
    day of the end. The rest to 1 is the probability of not coming back."""

    def within(self, horizon_days: int) -> NDArray[np.float64]:
        """`by_day` cut at the exact moment `horizon_days` after the end: (shoppers, days + 1)."""
        inside = self.by_day[:, : horizon_days + 1].copy()
        inside[:, horizon_days] *= share_begun(self.end % DAY)
        return inside

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Start of the next session, and whether there is one."""
        reached = np.cumsum(self.by_day, axis=1)
        pick = rng.random(self.end.size)
        away = (pick[:, None] >= reached).sum(axis=1)
        midnight = self.end - self.end % DAY
        earliest = self.end + self.pause
        later_today = earliest + rng.random(self.end.size) * (midnight + DAY - earliest)
        other_day = midnight + away * DAY + draw_time_of_day(rng, self.end.size)
        start = np.where(away == 0, later_today.astype(np.int64), other_day)
        return start, away <= MAX_AWAY


def return_distribution(
    config: ShopConfig,
    end: NDArray[np.int64],
    rate: NDArray[np.float64],
    has_cart: NDArray[np.bool_],
    traffic: NDArray[np.float64],
) -> ReturnDistribution:
    """The distribution for shoppers who come `rate` times a day; `traffic` is by day."""
    pause = 2 * config.gap
    day = (end - config.begin) // DAY
    away = np.arange(1, MAX_AWAY + 1)
    pull = np.where(has_cart, CART_PULL, 1.0)[:, None] * np.exp(-(away - 1) / ATTRITION_DAYS)
    stay = np.exp(-rate[:, None] * pull * traffic[day[:, None] + away])
    same_day = np.where(end % DAY + pause < DAY, SAME_DAY, 0.0)[:, None]
    still_away = (1 - same_day) * np.hstack([np.ones_like(same_day), np.cumprod(stay, axis=1)])
    return ReturnDistribution(end, pause, np.hstack([same_day, -np.diff(still_away, axis=1)]))
