"""Whether live events reach the features: the signals `live` and `live_set_apart`."""

import sqlite3
from collections.abc import Iterator

from monitoring.alerts import Signal
from nextbuy.errors import NextbuyError
from nextbuy.live.health import live_health
from nextbuy.settings import Settings


def live(settings: Settings) -> Iterator[Signal | str]:
    """How long the oldest live event waits, and how many could not be worked off.

    Raises:
        NextbuyError: the live store cannot be read.
    """
    try:
        health = live_health(settings)
    except sqlite3.Error as error:
        raise NextbuyError(
            f"The live store cannot be read: {error}. Look at {settings.live}."
        ) from error
    if health is None:
        yield "No live event has come yet. Send some: POST /events"
        return
    waiting = f"{health.waiting_events:,} live events wait, the oldest for "
    yield Signal(
        name="live",
        value=health.oldest_seconds,
        message=f"{waiting}{health.oldest_seconds:,.0f} s. {health.cause}"
        if health.waiting_events
        else "No live event waits: Redis has the features of all of them.",
        remedy=health.remedy,
        unit="seconds",
    )
    shoppers = f", and {health.set_apart_shoppers:,} shoppers" if health.set_apart_shoppers else ""
    yield Signal(
        name="live_set_apart",
        value=health.set_apart_events + health.set_apart_shoppers,
        message=f"{health.set_apart_events:,} live events{shoppers} could not be worked off.",
        remedy="See their errors: nextbuy live status. Once the cause is removed: nextbuy live "
        "retry. What will never be one: nextbuy live discard ID",
    )
