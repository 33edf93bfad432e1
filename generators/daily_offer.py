"""Price and stock of every item on every day: promotions and outages."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generators.catalogue import CATEGORIES, Catalogue
from generators.config import MAX_AWAY, ShopConfig

DEPTHS = np.array([0.10, 0.15, 0.20, 0.30])
"""Discounts of single items, as a share of the list price."""
CAMPAIGN_DEPTH = 0.15
"""Discount of a whole category on campaign."""


@dataclass(frozen=True)
class DailyOffer:
    """(days, items) tables that reach past the last day: the truth looks a horizon ahead.

    A price holds for a whole session, the one that begins on that day.
    """

    discount: NDArray[np.int64]
    """Cents off the list price."""
    price: NDArray[np.int64]
    """Cents, after the discount."""
    in_stock: NDArray[np.bool_]


def plan_daily_offer(
    config: ShopConfig, catalogue: Catalogue, rng: np.random.Generator
) -> DailyOffer:
    """Draw promotions, campaigns and outages."""
    days, items = config.days + MAX_AWAY + 2, config.items
    depth = np.zeros((days, items))
    day, item, which = _windows(rng, days, items, every=45, shortest=3, longest=9)
    np.maximum.at(depth, (day, item), rng.choice(DEPTHS, which.max(initial=0) + 1)[which])
    day, kind, _ = _windows(rng, days, len(CATEGORIES), every=40, shortest=3, longest=6)
    campaign = np.zeros((days, len(CATEGORIES)))
    campaign[day, kind] = CAMPAIGN_DEPTH
    depth = np.maximum(depth, campaign[:, catalogue.category])
    day, item, _ = _windows(rng, days, items, every=200, shortest=2, longest=6)
    in_stock = np.ones((days, items), bool)
    in_stock[day, item] = False
    discount = np.round(catalogue.list_price * depth).astype(np.int64)
    return DailyOffer(discount, catalogue.list_price - discount, in_stock)


def _windows(
    rng: np.random.Generator, days: int, things: int, every: int, shortest: int, longest: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Spans of days at random moments: (day, thing, span number) for each day of each span."""
    count = rng.poisson(things * days / every)
    length = rng.integers(shortest, longest + 1, count)
    which = np.repeat(np.arange(count), length)
    offset = np.arange(which.size) - np.repeat(np.cumsum(length) - length, length)
    day = rng.integers(days, size=count)[which] + offset
    thing = rng.integers(things, size=count)[which]
    inside = day < days
    return day[inside], thing[inside], which[inside]
