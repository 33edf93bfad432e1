"""When a shopper comes back, or never: drawn, and known, from one law."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generators.config import MAX_AWAY, ShopConfig
from generators.rhythm import draw_time_of_day, share_begun
from nextbuy.times import DAY

SAME_DAY = 0.06
"""Chance to come back later on the same day."""
FORGET_DAYS = 25.0
"""The pull of the shop fades with this time constant: some never come back."""
CART_PULL = 1.35
"""Whoever left something in the cart comes back sooner."""


@dataclass(frozen=True)
class Returns:
    """The law of the next session's begin for shoppers whose session has just ended."""

    end: NDArray[np.int64]
    pause: int
    """Shortest pause between two sessions, in microseconds."""
    by_day: NDArray[np.float64]
    """(shoppers, MAX_AWAY + 1): chance to come back on the n-th day after the day of the end.
    What is missing to 1 is the chance to be lost."""

    def within(self, horizon_days: int) -> NDArray[np.float64]:
        """`by_day` cut at the exact moment `horizon_days` after the end: (shoppers, days + 1)."""
        inside = self.by_day[:, : horizon_days + 1].copy()
        inside[:, horizon_days] *= share_begun(self.end % DAY)
        return inside

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Begin of the next session, and whether there is one."""
        reached = np.cumsum(self.by_day, axis=1)
        pick = rng.random(self.end.size)
        away = (pick[:, None] >= reached).sum(axis=1)
        midnight = self.end - self.end % DAY
        earliest = self.end + self.pause
        later_today = earliest + rng.random(self.end.size) * (midnight + DAY - earliest)
        other_day = midnight + away * DAY + draw_time_of_day(rng, self.end.size)
        start = np.where(away == 0, later_today.astype(np.int64), other_day)
        return start, away <= MAX_AWAY


def returns(
    config: ShopConfig,
    end: NDArray[np.int64],
    rate: NDArray[np.float64],
    has_cart: NDArray[np.bool_],
    traffic: NDArray[np.float64],
) -> Returns:
    """The law for shoppers who come `rate` times a day in a shop as busy as `traffic` (by day)."""
    pause = 2 * config.gap
    day = (end - config.begin) // DAY
    away = np.arange(1, MAX_AWAY + 1)
    pull = np.where(has_cart, CART_PULL, 1.0)[:, None] * np.exp(-(away - 1) / FORGET_DAYS)
    stay = np.exp(-rate[:, None] * pull * traffic[day[:, None] + away])
    same_day = np.where(end % DAY + pause < DAY, SAME_DAY, 0.0)[:, None]
    still_away = (1 - same_day) * np.hstack([np.ones_like(same_day), np.cumprod(stay, axis=1)])
    return Returns(end, pause, np.hstack([same_day, -np.diff(still_away, axis=1)]))
