"""The purchase equation: the one place that says how likely an item in mind is bought.

The session draws from it and the truth table sums it over the days of a possible return. It
depends on the state at the end of the last session, on the day of the next one, and on nothing
else: that is what makes the truth exact. An offer made at the end of a session is one more term
in logits, known to both.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generators.catalogue import Catalogue
from generators.daily_offer import Shelf
from generators.shoppers import Shoppers

BASE = -7.05
WANT = 1.7
WANT_DAYS = 30.0
CART = 6.1
CART_DAYS = 30.0
TIRED = 0.25
SATED = 4.0
DEAR = 0.4
PAY_DAYS = 20.0
"""A wallet fills up again with this time constant."""
LIKING = 0.15
SEASON = 1.0
OFFER = 0.8
BOTHERED = 1.7
"""Shoppers less sensitive to discounts than this are put off by an offer, the others won over."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """What the whole shop shares and nothing in it changes."""

    catalogue: Catalogue
    shelf: Shelf
    shoppers: Shoppers
    season: Floats
    """(days, categories)."""
    traffic: Floats
    """(days,)."""


@dataclass(frozen=True)
class InMind:
    """Items in the minds of shoppers, flat: one entry per (shopper, item)."""

    who: Ints
    item: Ints
    want: Floats
    tired: Floats
    sated: Floats
    in_cart: NDArray[np.bool_]
    wallet: Floats
    """The shopper's, at the end of the last session."""
    offered: NDArray[np.bool_]
    """Whether an offer waits for the shopper."""


def liking(world: World, who: Ints, item: Ints) -> Floats:
    """How well an item fits a shopper's taste, about standard normal; broadcasts."""
    shoppers, catalogue = world.shoppers, world.catalogue
    style: Floats = np.einsum("...s,...s->...", shoppers.style[who], catalogue.style[item])
    level = np.abs(shoppers.price_level[who] - catalogue.price_level[item])
    return 0.6 * style - 0.7 * (level - 0.9)


def wallet_after(world: World, who: Ints, wallet: Floats, days: Ints) -> Floats:
    """Cents in the wallet `days` days on."""
    budget = world.shoppers.budget[who]
    return budget - (budget - wallet) * np.exp(-days / PAY_DAYS)


def purchase_probability(world: World, mind: InMind, away: Ints, day: Ints) -> Floats:
    """Chance that a session on `day`, `away` days after the last one, buys each item.

    `away` and `day` have the shape (entries, days) or (entries, 1); so has the answer.
    """
    who, item = mind.who[:, None], mind.item[:, None]
    catalogue, shoppers, shelf = world.catalogue, world.shoppers, world.shelf
    wallet = wallet_after(world, who, mind.wallet[:, None], away)
    price = shelf.price[day, item]
    logit = (
        BASE
        + shoppers.conversion[who]
        + LIKING * liking(world, who, item)
        + WANT * mind.want[:, None] * np.exp(-away / WANT_DAYS)
        + CART * mind.in_cart[:, None] * np.exp(-away / CART_DAYS)
        - TIRED * mind.tired[:, None]
        - SATED * mind.sated[:, None] * np.exp(-away / catalogue.sated_days[item])
        + DEAR * np.minimum(np.log(np.maximum(wallet, 100.0) / price), 0.0)
        + shoppers.sensitivity[who] * shelf.discount[day, item] / catalogue.list_price[item]
        + OFFER * (shoppers.sensitivity[who] - BOTHERED) * mind.offered[:, None]
        + SEASON * (world.season[day, catalogue.category[item]] - 1)
    )
    return np.where(shelf.in_stock[day, item], 1 / (1 + np.exp(-logit)), 0.0)
