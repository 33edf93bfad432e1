"""The live worker: events from the live store, feature rows into Redis.

One process per data folder, `python -m nextbuy.live.worker`, started by the service with the first
event. It works in small batches: events that arrive during one are in the next.

Its position in the order of arrival is kept in Redis, beside the rows: a Redis that lost its last
writes has lost both, and the worker processes those events again.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import pyarrow as pa
import redis
from feast import FeatureStore
from feast.errors import FeastObjectNotFoundException

from nextbuy.errors import NextbuyError
from nextbuy.live.event_store import ERASURES, EventPage, LiveStore, now_us, to_arrow
from nextbuy.live.features import LiveFeatures, live_clock, live_settings, live_tables
from nextbuy.live.sync import sync
from nextbuy.live.write_history import begin_batch, end_batch
from nextbuy.settings import Settings
from nextbuy.stores.online.encoded_rows import rows_from_arrow
from nextbuy.stores.online.layout import RedisLayout, redis_layout
from nextbuy.stores.online.redis_server import append_only, ensure_running
from nextbuy.stores.online.store import NextbuyOnlineStore
from nextbuy.stores.online.writer import write
from nextbuy.versioned_table import lock, manifest

logger = logging.getLogger("bentoml.nextbuy.live")

CURSOR = "nextbuy:live:cursor"
"""Redis key: the last event whose features are in Redis."""
MAX_BATCH_EVENTS = 5_000
MAX_HISTORY = 100_000
"""Events of a shopper with all linked users. The features of those with more wait for the next
batch build: they would delay everybody else's."""
IDLE_SECONDS = 0.01
RETRY_SECONDS = 0.5
POLL_SECONDS = 2.0  # between two looks at what is published


class Worker:
    """Keeps the features of the shoppers whose events arrive up to date."""

    def __init__(self, settings: Settings) -> None:
        """Open the stores and copy what is published.

        Raises:
            NextbuyError: the registry has no such views, or Redis is out of reach.
        """
        self._settings = settings
        self.store = LiveStore(settings)
        self._published = _published(settings)
        self._erasures = self.store.get_meta(ERASURES)
        sync(settings, self.store, lambda rows: logger.info("%d published events read", rows))
        tables = live_tables(settings)
        config = live_settings(settings).sessions
        self.features = LiveFeatures(tables, config, clock=live_clock(settings))
        self._feast = FeatureStore(repo_path=str(settings.feature_repo))
        self._layouts: dict[str, RedisLayout] = {}
        for table in tables:
            try:
                view = self._feast.get_feature_view(table.name)
            except FeastObjectNotFoundException:
                raise NextbuyError(
                    f"Feast knows no feature view {table.name!r}. Register it: nextbuy apply"
                ) from None
            self._layouts[table.name] = redis_layout(self._feast.config, view)
        self._client = NextbuyOnlineStore().client(self._feast.config)
        if settings.redis_url is None:
            append_only(self._client)
        self._sequence = -1
        self.oversized: set[str] = set()
        """Shoppers with more than `MAX_HISTORY` events."""

    def is_outdated(self) -> bool:
        """Whether something was published or erased that this worker does not know of."""
        known = self._published, self._erasures
        return (_published(self._settings), self.store.get_meta(ERASURES)) != known

    def step(self) -> int:
        """Process arrived events, up to `MAX_BATCH_EVENTS`; returns their number.

        Raises:
            NextbuyError, redis.RedisError: Redis is away; call again later.
        """
        cursor: Any = self._client.get(CURSOR)
        sequence = self.store.sequence_from_cursor(cursor.decode() if cursor else None)
        pending = self.store.pending_users()
        if sequence != self._sequence or pending:  # Redis or the published events changed
            self.features.clear()
        arrived = self.store.events_after(sequence, MAX_BATCH_EVENTS)
        self._sequence = arrived.last_seq
        if not arrived.rows and not pending:
            return 0
        since = dict(pending)
        for row in arrived.rows:
            since[row.user_id] = min(row.event_us, since.get(row.user_id, row.event_us))
        affected = self._affected(since)
        self._cache_events(affected, arrived)
        affected = {user: us for user, us in affected.items() if user not in self.oversized}
        if affected:
            self._write(self.features.rows(affected), pending)
        self._client.set(CURSOR, self.store.cursor_for(arrived.last_seq))
        return len(arrived.rows)

    def _affected(self, since: Mapping[str, int]) -> dict[str, int]:
        """Everyone whose features the events may change -> since when."""
        affected = dict(since)
        for root, linked in self.store.linked_users(since).items():
            for user in linked:
                affected[user] = min(since[root], affected.get(user, since[root]))
        return affected

    def _cache_events(self, affected: Mapping[str, int], arrived: EventPage) -> None:
        self.features.make_room()
        cached = self.features.cached
        self.features.cache((), to_arrow([row for row in arrived.rows if row.user_id in cached]))
        missing = [user for user in affected if user not in cached and user not in self.oversized]
        sizes = self.store.sizes(missing)
        self._exclude(user for user, size in sizes.items() if size > MAX_HISTORY)
        missing = [user for user in missing if user not in self.oversized]
        self.features.cache(missing, self.store.histories(missing, arrived.last_seq))
        self._exclude(user for user in affected if cached.get(user, 0) > MAX_HISTORY)

    def _exclude(self, users: Iterable[str]) -> None:
        for user in users:
            if user not in self.oversized:
                self.oversized.add(user)
                logger.warning(
                    "A shopper has more than %d events; their features wait for the next batch "
                    "build (nextbuy merge-live, sessionize, features, materialize).",
                    MAX_HISTORY,
                )

    def _write(self, tables: Mapping[str, pa.Table], pending: dict[str, int]) -> None:
        created = now_us()
        batch = begin_batch(self.store, tables, created)
        for view, rows in tables.items():
            into = self._layouts[view]
            encoded = rows_from_arrow(self._feast.config, into, rows, "event_timestamp")
            write(self._client, self._feast.config, into, [encoded])
        end_batch(self.store, batch, now_us(), pending)


def _published(settings: Settings) -> list[str | None]:
    tables = (manifest(settings.events), manifest(settings.sessions))
    fingerprints = [table.fingerprint if table else None for table in tables]
    return [*fingerprints, live_settings(settings).time_zone]


def work(settings: Settings, is_over: Callable[[], bool]) -> None:
    """Process events until `is_over`, or until what is published changes."""
    worker = Worker(settings)
    logger.info("The live worker is ready.")
    polled = time.monotonic()
    while not is_over():
        try:
            processed = worker.step()
        except (NextbuyError, redis.RedisError, OSError) as error:
            logger.warning("Live features wait for Redis: %s", error)
            worker.features.clear()
            time.sleep(RETRY_SECONDS)
            with suppress(NextbuyError):
                ensure_running(settings)  # the embedded server is started again
            continue
        if not processed:
            time.sleep(IDLE_SECONDS)
        if time.monotonic() - polled > POLL_SECONDS:
            polled = time.monotonic()
            if worker.is_outdated():
                logger.info("Published tables changed; the live worker starts again.")
                return


def _await_end(over: threading.Event) -> None:
    os.read(0, 1)
    over.set()


def main() -> None:
    """Work until standard input ends, or a signal arrives."""
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
