"""Shoppers: traits that do not change and that the log does not show."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from generators.catalogue import CATEGORIES, STYLES
from generators.config import ShopConfig
from generators.rhythm import draw_time_of_day
from nextbuy.times import DAY


@dataclass(frozen=True)
class Shoppers:
    """Arrays of one entry per shopper."""

    style: NDArray[np.float64]
    """(shoppers, STYLES): their taste, in the space of the brands' styles."""
    category_cdf: NDArray[np.float64]
    """(shoppers, categories): cumulative probability of browsing each category."""
    price_level: NDArray[np.float64]
    """Preferred price level, in standard deviations of a category's prices."""
    conversion: NDArray[np.float64]
    """General tendency to buy, in logits."""
    discount_sensitivity: NDArray[np.float64]
    """Effect of a discount, in logits per share of the list price."""
    budget: NDArray[np.float64]
    """Cents in a full wallet."""
    return_rate: NDArray[np.float64]
    """Sessions a day."""
    breadth: NDArray[np.float64]
    """New items viewed in a session, on average."""
    guest: NDArray[np.bool_]
    """Begins as an anonymous visitor."""
    first_visit: NDArray[np.int64]
    """When their first session begins, in microseconds."""
    names: pa.StringArray
    """(2 x people): the user ids of all people, bots last, then their devices' visitor ids."""
    people: int
    """Shoppers and bots; `names[people + p]` is the visitor id of person `p`."""


def create_shoppers(config: ShopConfig, rng: np.random.Generator) -> Shoppers:
    """Draw the traits of all shoppers."""
    count, kinds = config.shoppers, len(CATEGORIES)
    people = count + config.bots
    taste = rng.dirichlet(np.full(kinds, 0.5), size=count)
    level = rng.normal(0, 0.7, count)
    early = rng.random(count) < 0.4
    first_day = np.where(
        early,
        rng.integers(min(14, config.days), size=count),
        rng.integers(config.days, size=count),
    )
    # Two unrelated orders, so that a visitor id does not reveal the user id behind it.
    users = [f"u{n:06d}" for n in rng.permutation(people)]
    visitors = [f"a{n:06d}" for n in rng.permutation(people)]
    return Shoppers(
        style=rng.normal(size=(count, STYLES)),
        category_cdf=np.cumsum(taste, axis=1),
        price_level=level,
        conversion=rng.normal(0, 0.25, count),
        discount_sensitivity=rng.lognormal(np.log(2.5), 0.3, count),
        budget=rng.lognormal(np.log(30_000), 0.5, count) * np.exp(0.4 * level),
        return_rate=np.minimum(rng.gamma(4.0, 0.025, count) + 0.05, 0.8),
        breadth=rng.gamma(4.0, 0.5, count),
        guest=rng.random(count) < config.guest_share,
        first_visit=config.begin + first_day * DAY + draw_time_of_day(rng, count),
        names=pa.array(users + visitors),
        people=people,
    )
