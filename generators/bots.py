"""Machines that crawl the shop: hundreds of views a run, several a second, nothing bought."""

import numpy as np

from generators.clicks import VIEW, Clicks
from generators.config import ShopConfig
from generators.shoppers import Shoppers
from nextbuy.times import DAY, SECOND


def crawl(
    config: ShopConfig, shoppers: Shoppers, day: int, rng: np.random.Generator
) -> Clicks | None:
    """The runs of one day, at most one a bot; None where no bot comes.

    Bots carry the same kind of ids as everyone, every other one that of a visitor.
    """
    bots = np.flatnonzero(rng.random(config.bots) < config.bot_daily_rate)
    if not bots.size:
        return None
    views = rng.integers(150, 401, bots.size)
    run = np.repeat(np.arange(bots.size), views)
    pause = rng.integers(SECOND // 20, SECOND * 4 // 5, run.size)
    # Whole runs stay in the first 23 hours and so apart from those of the next day.
    start = config.begin + day * DAY + rng.integers(DAY * 22 // 24, size=bots.size)
    passed = np.cumsum(pause)
    time = start[run] + passed - passed[np.cumsum(views) - views][run]
    bot = shoppers.people - config.bots + bots
    person = np.where(bots % 2 == 0, bot, shoppers.people + bot)
    item = rng.integers(config.items, size=run.size)
    return Clicks(person[run], time, np.full(run.size, VIEW), item, run)
