"""The live worker: events from the live store, feature rows into Redis.

One process for each data folder, `python -m nextbuy.live.worker`, started by the service when the
first event comes. It works in small batches: what arrived while one was made is in the next.

Its place in the order of arrival is kept in Redis, beside the rows: a Redis that lost its last
moments has lost both, and the events since are worked on again.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
import redis
from feast import FeatureStore
from feast.errors import FeastObjectNotFoundException

from nextbuy.errors import NextbuyError
from nextbuy.live.event_store import LiveStore, arrow, now_us
from nextbuy.live.features import LiveFeatures, live_tables, session_config
from nextbuy.live.sync import sync
from nextbuy.live.write_history import begin_batch, end_batch
from nextbuy.settings import Settings
from nextbuy.stores.online.layout import Layout, layout
from nextbuy.stores.online.redis_server import append_only, hold
from nextbuy.stores.online.rows import rows_from_arrow
from nextbuy.stores.online.store import NextbuyOnlineStore
from nextbuy.stores.online.writer import write
from nextbuy.versioned_table import lock, manifest

logger = logging.getLogger("bentoml.nextbuy.live")

CURSOR = "nextbuy:live:cursor"
"""Redis key: how far the order of arrival is worked off."""
MOST_EVENTS = 5_000  # in one batch
MOST_HISTORY = 100_000
"""Events of a shopper, or of a circle of shoppers, beyond which their features wait for the next
batch build: it would hold up all others."""
IDLE_SECONDS = 0.01
AWAY_SECONDS = 0.5
LOOK_SECONDS = 2.0  # between two looks at what is published


class Worker:
    """Moves the features of the shoppers whose events arrived."""

    def __init__(self, settings: Settings) -> None:
        """Open the stores and copy what is published.

        Raises:
            NextbuyError: the registry has no such views, or Redis is out of reach.
        """
        self._settings = settings
        self.store = LiveStore(settings)
        self._published = _published(settings)
        self._forgotten = self.store.note("forgotten")
        sync(settings, self.store, lambda rows: logger.info("%d published events read", rows))
        tables = live_tables(settings)
        self.features = LiveFeatures(tables, session_config(settings))
        self._feast = FeatureStore(repo_path=str(settings.feature_repo))
        self._layouts: dict[str, Layout] = {}
        for table in tables:
            try:
                view = self._feast.get_feature_view(table.name)
            except FeastObjectNotFoundException:
                raise NextbuyError(
                    f"Feast knows no feature view {table.name!r}. Register it: nextbuy apply"
                ) from None
            self._layouts[table.name] = layout(self._feast.config, view)
        online: Any = self._feast._get_provider().online_store
        assert isinstance(online, NextbuyOnlineStore)
        self._client = online.client(self._feast.config)
        if settings.redis_url is None:
            append_only(self._client)
        self._place = -1
        self.beyond: set[str] = set()
        """Shoppers with more than `MOST_HISTORY` events."""

    def is_outdated(self) -> bool:
        """Whether something was published that this worker does not know."""
        known = self._published, self._forgotten
        return (_published(self._settings), self.store.note("forgotten")) != known

    def step(self) -> int:
        """Work off what arrived, up to `MOST_EVENTS` events; returns how many they were.

        Raises:
            NextbuyError, redis.RedisError: Redis is away; the step is done again later.
        """
        found: Any = self._client.get(CURSOR)
        place = self.store.place(found.decode() if found else None)
        stale = self.store.stale()
        if place != self._place or stale:  # Redis is not where it was left, or the past is not
            self.features.drop()
        arrived = self.store.arrived(place, MOST_EVENTS)
        self._place = arrived.last
        if not arrived.rows and not stale:
            return 0
        since = dict(stale)
        for row in arrived.rows:
            since[row[1]] = min(row[2], since.get(row[1], row[2]))
        touched = self._touched(since)
        self._hold(touched, arrived.rows, arrived.last)
        touched = {user: moment for user, moment in touched.items() if user not in self.beyond}
        if touched:
            self._write(self.features.rows(touched), stale)
        self._client.set(CURSOR, self.store.cursor(arrived.last))
        return len(arrived.rows)

    def _touched(self, since: Mapping[str, int]) -> dict[str, int]:
        """Everybody whose features the events may change -> since when."""
        touched = dict(since)
        for root, circle in self.store.circles(since).items():
            for user in circle:
                touched[user] = min(since[root], touched.get(user, since[root]))
        return touched

    def _hold(self, touched: Mapping[str, int], rows: list[Any], last: int) -> None:
        self.features.make_room()
        held = self.features.held
        self.features.hold((), arrow([row for row in rows if row[1] in held]))
        missing = [user for user in touched if user not in held and user not in self.beyond]
        sizes = self.store.sizes(missing)
        self._set_aside(n for n, size in sizes.items() if size > MOST_HISTORY)
        missing = [user for user in missing if user not in self.beyond]
        self.features.hold(missing, self.store.histories(missing, last))
        self._set_aside(user for user in touched if held.get(user, 0) > MOST_HISTORY)

    def _set_aside(self, users: Any) -> None:
        for user in users:
            if user not in self.beyond:
                self.beyond.add(user)
                logger.warning(
                    "A shopper has more than %d events; their features wait for the next batch "
                    "build (nextbuy merge-live, sessionize, features, materialize).",
                    MOST_HISTORY,
                )

    def _write(self, tables: Mapping[str, pa.Table], stale: dict[str, int]) -> None:
        created = now_us()
        batch = begin_batch(self.store, tables, created)
        for view, rows in tables.items():
            into = self._layouts[view]
            encoded = rows_from_arrow(self._feast.config, into, rows, "event_timestamp")
            write(self._client, self._feast.config, into, [encoded])
        end_batch(self.store, batch, now_us(), stale)


def _published(settings: Settings) -> list[str | None]:
    tables = (manifest(settings.events), manifest(settings.sessions))
    return [table.fingerprint if table else None for table in tables]


def work(settings: Settings, is_over: Callable[[], bool]) -> None:
    """Work until `is_over`, or until what is published changes."""
    worker = Worker(settings)
    logger.info("The live worker is ready.")
    looked = time.monotonic()
    while not is_over():
        try:
            busy = worker.step()
        except (NextbuyError, redis.RedisError, OSError) as error:
            logger.warning("Live features wait for Redis: %s", error)
            worker.features.drop()
            time.sleep(AWAY_SECONDS)
            with suppress(NextbuyError):
                hold(settings)  # the embedded server is started again
            continue
        if not busy:
            time.sleep(IDLE_SECONDS)
        if time.monotonic() - looked > LOOK_SECONDS:
            looked = time.monotonic()
            if worker.is_outdated():
                logger.info("Something new was published; the live worker starts again.")
                return


def _await_end(over: threading.Event) -> None:
    os.read(0, 1)
    over.set()


def main() -> None:
    """Work until the standard input ends."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s live: %(message)s")
    logging.getLogger("bentoml.nextbuy").setLevel(logging.INFO)
    over = threading.Event()
    threading.Thread(target=_await_end, args=[over], name="parent", daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    settings = Settings()
    while not over.is_set():
        try:
            with lock(settings.live / "worker.lock", "Another live worker is still at work"):
                work(settings, over.is_set)
        except NextbuyError as error:
            logger.warning("%s", error)
            over.wait(1)


if __name__ == "__main__":
    main()
