"""Who a session's events belong to: guests, those who sign up, members not yet logged in.

A guest shops under the visitor id of their device until they sign up; from that log-in on they
are a member under their user id. Now and then a member begins on the device as a visitor and
logs in. Either way some views before the log-in, the prelude, stand under the visitor id, in the
same session of the shop. The session of the user id begins with the log-in itself, at the moment
that the law of returns drew, so a prelude changes no truth of the user id.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generators.clicks import VIEW, Clicks
from generators.config import ShopConfig
from generators.interactions import Looks
from generators.truth import TruthRows
from nextbuy.times import SECOND

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Identity:
    """Arrays of one entry per session."""

    person: Ints
    """Whose id the session carries; after the log-in, if there is one."""
    visitor: Ints
    """The id of the device, of what comes before a log-in."""
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


def prelude(
    config: ShopConfig, identity: Identity, looks: Looks, start: Ints, rng: np.random.Generator
) -> tuple[Clicks, TruthRows]:
    """The views before the log-ins: of the first one to three items that the session touches.

    Their rows of the truth are 0: the visitor id buys nothing any more.
    """
    most = np.minimum(looks.items_by_session(start.size), 3)
    views = identity.logs_in * rng.integers(1, most + 1)
    step = rng.integers(15 * SECOND, config.gap // 12, start.size)
    seen = looks.rank < views[looks.entry]
    entry, rank = looks.entry[seen], looks.rank[seen]
    time = start[entry] - (views[entry] - rank) * step[entry]
    person, item = identity.visitor[entry], looks.item[seen]
    clicks = Clicks(person, time, np.full(entry.size, VIEW), item, entry)
    return clicks, TruthRows.certain(person, item, (start - step)[entry])
