"""Which items a session touches: known ones that are recalled, and new ones."""

import numpy as np
from numpy.typing import NDArray

from generators.intent import World, affinity
from generators.state import SLOTS, ShopperItemState

NEW_ITEMS = 8
"""Maximum of new items in one session."""


def discover(
    world: World, who: NDArray[np.int64], day: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Items met while browsing, (shoppers, NEW_ITEMS), at least one each; the rest is -1.

    A category by taste, two items of it by popularity and promotion; the one with the higher
    affinity stays.
    """
    catalogue, daily = world.catalogue, world.daily_offer
    pull = catalogue.popularity * (1 + 3 * daily.discount[day] / catalogue.list_price)
    edges = np.concatenate([[0.0], np.cumsum(pull)])
    shape = (who.size, NEW_ITEMS)
    taste = world.shoppers.category_cdf[who][:, None, :-1]
    category = (rng.random(shape)[:, :, None] > taste).sum(axis=2)
    kinds = np.arange(world.season.shape[1] + 1)
    bounds = edges[np.searchsorted(catalogue.category, kinds)]
    low, high = bounds[category], bounds[category + 1]
    drawn = low + rng.random((2, *shape)) * (high - low)
    two = np.minimum(np.searchsorted(edges, drawn, side="right") - 1, catalogue.category.size - 1)
    better = affinity(world, who[:, None], two[0]) > affinity(world, who[:, None], two[1])
    count = np.clip(rng.poisson(world.shoppers.breadth[who]), 1, NEW_ITEMS)
    return np.where(np.arange(NEW_ITEMS) < count[:, None], np.where(better, *two), -1)


def choose(
    items: ShopperItemState,
    bought: NDArray[np.bool_],
    met: NDArray[np.int64],
    rng: np.random.Generator,
) -> ShopperItemState:
    """Decide which items the session touches: adds the new ones and sets `touched`.

    An item is touched when it is bought, recalled, or met again while browsing.
    """
    known = met[:, :, None] == items.item[:, None, :]
    again = (known & (met >= 0)[:, :, None]).any(axis=1)
    pull = -1.3 + 0.7 * items.intent + 1.5 * items.in_cart - 0.25 * items.fatigue - items.satiation
    recalled = rng.random(pull.shape) < 1 / (1 + np.exp(-pull))
    touched = (items.item >= 0) & (bought | again | recalled)
    earlier = np.tril(np.ones((met.shape[1],) * 2, bool), -1)
    twice = ((met[:, :, None] == met[:, None, :]) & earlier).any(axis=2)
    new = np.where(known.any(axis=2) | twice, -1, met)
    room = SLOTS - touched.sum(axis=1, keepdims=True)
    new = np.where(np.cumsum(new >= 0, axis=1) <= room, new, -1)
    wide = items.with_new(new)
    wide.touched = np.hstack([touched, new >= 0])
    return wide
