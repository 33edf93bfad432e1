"""What a session does with each item it touches, and how that changes the shopper's state."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generators.intent import World, affinity
from generators.state import ShopperItemState

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class ItemInteractions:
    """Arrays of one entry per (session, item touched), session by session."""

    entry: Ints
    """Which of the sessions."""
    slot: Ints
    """Which slot of the shopper's `ShopperItemState`."""
    item: Ints
    rank: Ints
    """Order within the session, from 0."""
    pull: Floats
    """How much the item attracts in this session."""
    views: Ints
    """At least 1."""
    scrolls: Ints
    added: Flags
    removed: Flags
    bought: Flags

    def items_by_session(self, sessions: int) -> Ints:
        """How many items each session touches."""
        return np.bincount(self.entry, minlength=sessions)


def interact(
    world: World,
    items: ShopperItemState,
    bought: Flags,
    who: Ints,
    day: int,
    rng: np.random.Generator,
) -> ItemInteractions:
    """Decide what the shoppers `who` do with the touched items.

    `bought` (shoppers, slots) says which of the items known before are bought; the new ones may
    be bought on impulse.
    """
    entry, slot = np.nonzero(items.touched)
    item, shopper = items.item[entry, slot], who[entry]
    rank = np.lexsort((rng.random(entry.size), entry)).argsort() - np.searchsorted(entry, entry)
    daily, traits = world.daily_offer, world.shoppers
    bargain = traits.discount_sensitivity[shopper] * daily.discount[day, item]
    bargain = bargain / world.catalogue.list_price[item]
    in_stock, in_cart = daily.in_stock[day, item], items.in_cart[entry, slot]
    pull = (
        0.45 * affinity(world, shopper, item)
        + 0.45 * items.intent[entry, slot]
        - 0.20 * items.fatigue[entry, slot]
        - 1.00 * items.satiation[entry, slot]
        + 0.70 * bargain
        + 0.60 * rng.normal(size=entry.size)
    )
    known = slot < bought.shape[1]
    buys = np.zeros(entry.size, bool)
    buys[known] = bought[entry[known], slot[known]]
    readiness = traits.conversion[shopper]
    buys |= ~known & in_stock & _happens(-4.6 + readiness + pull, rng)
    added = ~in_cart & in_stock & (buys | _happens(-3.5 + 0.5 * readiness + 1.2 * pull, rng))
    removed = (in_cart | added) & ~buys & _happens(-2.4 - 0.7 * pull, rng)
    views = 1 + np.minimum(rng.poisson(np.exp(np.minimum(-0.9 + 0.55 * pull, 2.0))), 6)
    scrolls = np.minimum(rng.poisson(np.exp(np.minimum(-0.6 + 0.45 * pull, 2.0))), 6)
    return ItemInteractions(entry, slot, item, rank, pull, views, scrolls, added, removed, buys)


def update_items(items: ShopperItemState, actions: ItemInteractions, dwell: Floats) -> None:
    """Apply what was done; `dwell` is the seconds spent on each item.

    Intent grows only by what the log shows, so a good model of the log can come close to the truth.
    """
    at = actions.entry, actions.slot
    gain = 0.40 * (actions.views - 1) + 0.30 * actions.scrolls + 0.50 * np.log1p(dwell / 20)
    intent = np.minimum(0.3 * items.intent[at] + gain, 5.0)
    items.intent[at] = np.where(
        actions.bought, 0.5, np.where(actions.removed, 0.3 * intent, intent)
    )
    items.fatigue[at] = np.where(actions.bought, 0.0, items.fatigue[at] + 1)
    items.satiation[at] = np.where(actions.bought, 1.0, items.satiation[at])
    items.in_cart[at] = (items.in_cart[at] | actions.added) & ~actions.bought & ~actions.removed


def _happens(logit: Floats, rng: np.random.Generator) -> Flags:
    happens: Flags = rng.random(logit.shape) < 1 / (1 + np.exp(-logit))
    return happens
