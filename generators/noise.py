"""When events arrive in the log: most at once, some late, some twice."""

import numpy as np
from numpy.typing import NDArray

from generators.config import ShopConfig
from nextbuy.times import DAY, SECOND


def arrivals(
    config: ShopConfig, time: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], int, int]:
    """When each event reaches the log.

    ReturnDistribution:
        which: positions in `time`, those of duplicated events twice;
        arrival: of each of them, in microseconds;
        late: how many events are late;
        duplicates: how many come twice.
    """
    is_late = rng.random(time.size) < config.late_share
    arrival = time + np.where(is_late, _delay(60 * SECOND, 2 * DAY, time.size, rng), 0)
    again = np.flatnonzero(rng.random(time.size) < config.duplicate_share)
    repeated = arrival[again] + _delay(SECOND, DAY, again.size, rng)
    which = np.concatenate([np.arange(time.size), again])
    return which, np.concatenate([arrival, repeated]), int(is_late.sum()), again.size


def _delay(shortest: int, longest: int, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    drawn: NDArray[np.float64] = np.exp(rng.uniform(np.log(shortest), np.log(longest), size))
    return drawn.astype(np.int64)
