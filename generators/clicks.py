"""Events as arrays of numbers; the writer replaces these by ids and names."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nextbuy.events import EventType

KINDS = tuple(EventType)
"""Event types; `Clicks.kind` is a position in this tuple."""
VIEW, SCROLL, ADD, REMOVE, PURCHASE, LOGIN = range(len(KINDS))


@dataclass(frozen=True)
class Clicks:
    """Arrays of one entry per event."""

    person: NDArray[np.int64]
    """Position in `Shoppers.names`."""
    time: NDArray[np.int64]
    """Microseconds."""
    kind: NDArray[np.int64]
    item: NDArray[np.int64]
    """-1 for a login."""
    session: NDArray[np.int64]
    """The shop's own session number."""

    @classmethod
    def join(cls, parts: Sequence["Clicks"]) -> "Clicks":
        """Concatenate."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


def timed(
    session: NDArray[np.int64],
    key: NDArray[np.float64],
    pause: NDArray[np.int64],
    start: NDArray[np.int64],
    longest: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Give the events of sessions 0..n-1 their times.

    The events of a session happen in the order of `key`; the first at its `start`, each next one
    after the `pause` of the one before. Sessions longer than `longest` are shortened
    by scaling their pauses.

    ReturnDistribution:
        order: positions of the events, session by session;
        time: of each event, in that order;
        dwell: time until the next event, in that order; 0 for a session's last.
    """
    order = np.lexsort((key, session))
    which, gap = session[order], pause[order]
    first = np.searchsorted(which, np.arange(start.size))
    last = np.append(first[1:], which.size) - 1
    gap[last] = 0
    length = np.add.reduceat(gap, first)
    gap = (gap * np.minimum(1.0, longest / np.maximum(length, 1))[which]).astype(np.int64)
    passed = np.cumsum(gap) - gap
    return order, start[which] + passed - passed[first][which], gap
