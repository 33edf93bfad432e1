"""Bots that crawl the shop: hundreds of views a run, several a second, no purchases."""

import numpy as np

from generators.clicks import VIEW, Clicks
from generators.config import ShopConfig
from generators.shoppers import Shoppers
from nextbuy.times import DAY, SECOND


def crawl(
    config: ShopConfig, shoppers: Shoppers, day: int, rng: np.random.Generator
) -> Clicks | None:
    """The runs of one day, at most one per bot; None on a day without bots.

    Bots have the same kinds of ids as shoppers; every second one a visitor's.
    """
    bots = np.flatnonzero(rng.random(config.bots) < config.bot_daily_rate)
    if not bots.size:
        return None
    views = rng.integers(150, 401, bots.size)
    run = np.repeat(np.arange(bots.size), views)
    pause = rng.integers(SECOND // 20, SECOND * 4 // 5, run.size)
    # Runs end within the first 23 hours, so they stay apart from those of the next day.
    start = config.begin + day * DAY + rng.integers(DAY * 22 // 24, size=bots.size)
    passed = np.cumsum(pause)
    time = start[run] + passed - passed[np.cumsum(views) - views][run]
    bot = shoppers.people - config.bots + bots
    person = np.where(bots % 2 == 0, bot, shoppers.people + bot)
    item = rng.integers(config.items, size=run.size)
    return Clicks(person[run], time, np.full(run.size, VIEW), item, run)
