"""The purchase equation: the probability that a shopper buys a known item in a session.

The session draws from it and the truth table sums it over the days of a possible return. It
depends only on the state at the end of the last session and on the day of the next one, which
makes the truth exact. An offer made at the end of a session is one more term in logits, known to
both.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generators.catalogue import Catalogue
from generators.daily_offer import DailyOffer
from generators.shoppers import Shoppers

BASE = -7.05
INTENT = 1.7
INTENT_DAYS = 30.0
CART = 6.1
CART_DAYS = 30.0
FATIGUE = 0.25
SATIATION = 4.0
PRICE_SENSITIVITY = 0.4
WALLET_DAYS = 20.0
"""Time constant with which a wallet refills."""
AFFINITY = 0.15
SEASON = 1.0
OFFER = 0.8
OFFER_THRESHOLD = 1.7
"""An offer deters shoppers less sensitive to discounts than this, and attracts the others."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class World:
    """Everything about the shop that does not change during the simulation."""

    catalogue: Catalogue
    daily_offer: DailyOffer
    shoppers: Shoppers
    season: Floats
    """(days, categories)."""
    traffic: Floats
    """(days,)."""


@dataclass(frozen=True)
class PurchaseInputs:
    """What the purchase equation depends on, flat: one entry per (shopper, item)."""

    who: Ints
    item: Ints
    intent: Floats
    fatigue: Floats
    satiation: Floats
    in_cart: NDArray[np.bool_]
    wallet: Floats
    """The shopper's, at the end of the last session."""
    offered: NDArray[np.bool_]
    """Whether an offer waits for the shopper."""


def affinity(world: World, who: Ints, item: Ints) -> Floats:
    """How well an item fits a shopper's taste, about standard normal; broadcasts."""
    shoppers, catalogue = world.shoppers, world.catalogue
    style: Floats = np.einsum("...s,...s->...", shoppers.style[who], catalogue.style[item])
    level = np.abs(shoppers.price_level[who] - catalogue.price_level[item])
    return 0.6 * style - 0.7 * (level - 0.9)


def wallet_after(world: World, who: Ints, wallet: Floats, days: Ints) -> Floats:
    """Cents in the wallet after `days` days."""
    budget = world.shoppers.budget[who]
    return budget - (budget - wallet) * np.exp(-days / WALLET_DAYS)


def purchase_probability(world: World, inputs: PurchaseInputs, away: Ints, day: Ints) -> Floats:
    """Chance that a session on `day`, `away` days after the last one, buys each item.

    `away` and `day` have the shape (entries, days) or (entries, 1); so has the result.
    """
    who, item = inputs.who[:, None], inputs.item[:, None]
    catalogue, shoppers, daily = world.catalogue, world.shoppers, world.daily_offer
    wallet = wallet_after(world, who, inputs.wallet[:, None], away)
    price = daily.price[day, item]
    logit = (
        BASE
        + shoppers.conversion[who]
        + AFFINITY * affinity(world, who, item)
        + INTENT * inputs.intent[:, None] * np.exp(-away / INTENT_DAYS)
        + CART * inputs.in_cart[:, None] * np.exp(-away / CART_DAYS)
        - FATIGUE * inputs.fatigue[:, None]
        - SATIATION * inputs.satiation[:, None] * np.exp(-away / catalogue.satiation_days[item])
        + PRICE_SENSITIVITY * np.minimum(np.log(np.maximum(wallet, 100.0) / price), 0.0)
        + shoppers.discount_sensitivity[who]
        * daily.discount[day, item]
        / catalogue.list_price[item]
        + OFFER * (shoppers.discount_sensitivity[who] - OFFER_THRESHOLD) * inputs.offered[:, None]
        + SEASON * (world.season[day, catalogue.category[item]] - 1)
    )
    return np.where(daily.in_stock[day, item], 1 / (1 + np.exp(-logit)), 0.0)
