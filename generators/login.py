"""Which id a session's events carry: of guests, of those who sign up, of members logging in.

A guest shops under the visitor id of their device until they sign up; that login makes them a
member with a user id. Some sessions of members also begin as a visitor and log in. In both cases
a few views before the login carry the visitor id, in the same session of the shop: one visit, which
is the shopper's, as the labels have it. The login comes at the moment drawn from the
`ReturnDistribution`; the views before it are of items that the session touches anyway, so they
have no truth of their own and do not change the shopper's.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generators.clicks import VIEW, Clicks
from generators.config import ShopConfig
from generators.interactions import ItemInteractions
from nextbuy.times import SECOND

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Identity:
    """Arrays of one entry per session."""

    person: Ints
    """Whose id the session carries, after a login if it has one."""
    visitor: Ints
    """The device's id, for what comes before a login."""
    guest: Flags
    """Still anonymous at the end."""
    signs_up: Flags
    logs_in: Flags


def identify(
    config: ShopConfig,
    who: Ints,
    people: int,
    guest: Flags,
    first: Flags,
    rng: np.random.Generator,
) -> Identity:
    """Decide who logs in; nobody signs up in their `first` session."""
    signs_up = guest & ~first & (rng.random(who.size) < config.sign_up_rate)
    logged_out = ~guest & (rng.random(who.size) < config.logged_out_share)
    guest = guest & ~signs_up
    visitor = who + people
    return Identity(np.where(guest, visitor, who), visitor, guest, signs_up, signs_up | logged_out)


def pre_login_views(
    config: ShopConfig,
    identity: Identity,
    actions: ItemInteractions,
    start: Ints,
    rng: np.random.Generator,
) -> Clicks:
    """The views before the logins, of the first one to three items that the session touches."""
    most = np.minimum(actions.items_by_session(start.size), 3)
    views = identity.logs_in * rng.integers(1, most + 1)
    step = rng.integers(15 * SECOND, config.gap // 12, start.size)
    viewed = actions.rank < views[actions.entry]
    entry, rank = actions.entry[viewed], actions.rank[viewed]
    time = start[entry] - (views[entry] - rank) * step[entry]
    person, item = identity.visitor[entry], actions.item[viewed]
    return Clicks(person, time, np.full(entry.size, VIEW), item, entry)
