"""What a session does with each item it touches, and what that leaves in mind."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generators.intent import World, liking
from generators.state import Minds

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Looks:
    """Arrays of one entry per (session, item touched), session by session."""

    entry: Ints
    """Which of the sessions."""
    slot: Ints
    """Where in the minds."""
    item: Ints
    rank: Ints
    """0 for the item that the session meets first."""
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


def look(
    world: World,
    minds: Minds,
    bought: Flags,
    who: Ints,
    day: int,
    rng: np.random.Generator,
) -> Looks:
    """Decide what the shoppers `who` do with the items in `minds.touched`.

    `bought` (shoppers, slots) says which of the items known before are bought; the new ones may
    be bought on impulse.
    """
    entry, slot = np.nonzero(minds.touched)
    item, shopper = minds.item[entry, slot], who[entry]
    rank = np.lexsort((rng.random(entry.size), entry)).argsort() - np.searchsorted(entry, entry)
    shelf, traits = world.shelf, world.shoppers
    bargain = traits.sensitivity[shopper] * shelf.discount[day, item]
    bargain = bargain / world.catalogue.list_price[item]
    in_stock, in_cart = shelf.in_stock[day, item], minds.in_cart[entry, slot]
    pull = (
        0.45 * liking(world, shopper, item)
        + 0.45 * minds.want[entry, slot]
        - 0.20 * minds.tired[entry, slot]
        - 1.00 * minds.sated[entry, slot]
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
    return Looks(entry, slot, item, rank, pull, views, scrolls, added, removed, buys)


def remember(minds: Minds, looks: Looks, dwell: Floats) -> None:
    """Move the minds on by what was done; `dwell` is the seconds spent on each look.

    Interest grows by what the log shows, so that who reads the log well knows nearly as much as
    the shopper does.
    """
    at = looks.entry, looks.slot
    gain = 0.40 * (looks.views - 1) + 0.30 * looks.scrolls + 0.50 * np.log1p(dwell / 20)
    want = np.minimum(0.3 * minds.want[at] + gain, 5.0)
    minds.want[at] = np.where(looks.bought, 0.5, np.where(looks.removed, 0.3 * want, want))
    minds.tired[at] = np.where(looks.bought, 0.0, minds.tired[at] + 1)
    minds.sated[at] = np.where(looks.bought, 1.0, minds.sated[at])
    minds.in_cart[at] = (minds.in_cart[at] | looks.added) & ~looks.bought & ~looks.removed


def _happens(logit: Floats, rng: np.random.Generator) -> Flags:
    happens: Flags = rng.random(logit.shape) < 1 / (1 + np.exp(-logit))
    return happens
