"""What a session looks at: items that come back to mind, and new ones."""

import numpy as np
from numpy.typing import NDArray

from generators.intent import World, liking
from generators.state import SLOTS, Minds

NEW_ITEMS = 8
"""Most new items in one session."""


def discover(
    world: World, who: NDArray[np.int64], day: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Items met while browsing, (shoppers, NEW_ITEMS), at least one each; -1 where there is none.

    A category by taste, two items of it by popularity and promotion, the better liked one stays.
    """
    catalogue, shelf = world.catalogue, world.shelf
    pull = catalogue.popularity * (1 + 3 * shelf.discount[day] / catalogue.list_price)
    edges = np.concatenate([[0.0], np.cumsum(pull)])
    shape = (who.size, NEW_ITEMS)
    taste = world.shoppers.category_cdf[who][:, None, :-1]
    category = (rng.random(shape)[:, :, None] > taste).sum(axis=2)
    kinds = np.arange(world.season.shape[1] + 1)
    bounds = edges[np.searchsorted(catalogue.category, kinds)]
    low, high = bounds[category], bounds[category + 1]
    drawn = low + rng.random((2, *shape)) * (high - low)
    two = np.minimum(np.searchsorted(edges, drawn, side="right") - 1, catalogue.category.size - 1)
    better = liking(world, who[:, None], two[0]) > liking(world, who[:, None], two[1])
    count = np.clip(rng.poisson(world.shoppers.breadth[who]), 1, NEW_ITEMS)
    return np.where(np.arange(NEW_ITEMS) < count[:, None], np.where(better, *two), -1)


def choose(
    minds: Minds, bought: NDArray[np.bool_], found: NDArray[np.int64], rng: np.random.Generator
) -> Minds:
    """Decide what the session touches: the minds widened by the new items, `touched` set anew.

    What is bought is touched; so is what was met again while browsing.
    """
    known = found[:, :, None] == minds.item[:, None, :]
    met = (known & (found >= 0)[:, :, None]).any(axis=1)
    pull = -1.3 + 0.7 * minds.want + 1.5 * minds.in_cart - 0.25 * minds.tired - minds.sated
    recalled = rng.random(pull.shape) < 1 / (1 + np.exp(-pull))
    touched = (minds.item >= 0) & (bought | met | recalled)
    earlier = np.tril(np.ones((found.shape[1],) * 2, bool), -1)
    twice = ((found[:, :, None] == found[:, None, :]) & earlier).any(axis=2)
    new = np.where(known.any(axis=2) | twice, -1, found)
    room = SLOTS - touched.sum(axis=1, keepdims=True)
    new = np.where(np.cumsum(new >= 0, axis=1) <= room, new, -1)
    wide = minds.with_new(new)
    wide.touched = np.hstack([touched, new >= 0])
    return wide
