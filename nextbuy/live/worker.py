"""The live worker: events from the live store, feature rows into Redis.

One process per data folder, `python -m nextbuy.live.worker`, started by the service with the first
event. It works in small batches: events that arrive during one are in the next.

Its position in the order of arrival is kept in Redis, beside the rows: a Redis that lost its last
writes has lost both, and the worker processes those events again.
"""

import json
import logging
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
from feast import FeatureStore
from feast.errors import FeastObjectNotFoundException

from nextbuy.errors import NextbuyError
from nextbuy.events import why_invalid
from nextbuy.live.event_store import ERASURES, EventPage, LiveStore, now_us, to_arrow
from nextbuy.live.features import (
    LiveFeatures,
    affected_by,
    linkable_rows,
    live_clock,
    live_settings,
    live_tables,
)
from nextbuy.live.health import report_worker
from nextbuy.live.set_apart import (
    describe,
    is_outage,
    set_apart,
    set_shopper_apart,
)
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
AT_WORK = "nextbuy:live:at_work"
"""Redis key: the events that are being worked off, or were last."""
MAX_BATCH_EVENTS = 5_000
MAX_HISTORY = 100_000
"""Events of a shopper with all linked users. The features of those with more wait for the next
batch build: they would delay everybody else's."""
MAX_LINKED = 100
"""Shoppers whom log-ins link to one, directly or through others; those with more wait likewise."""
RETRIES = 1
"""How often an event that could not be worked off is tried again before it is set apart."""
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
        sync(settings, self.store, self._reading)
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
        self._failed_through: int | None = None
        """The last event of those that could not be worked off together; one of them is bad."""
        self._tries = 0
        self.oversized: set[str] = set()
        """Shoppers beyond `MAX_HISTORY` or `MAX_LINKED`."""
        self._recall()

    def _reading(self, rows: int) -> None:
        logger.info("%d published events read", rows)
        problem = f"it reads the published events, {rows:,} so far"
        report_worker(self.store, None, 0, problem)

    def is_outdated(self) -> bool:
        """Whether something was published or erased that this worker does not know of."""
        known = self._published, self._erasures
        return (_published(self._settings), self.store.get_meta(ERASURES)) != known

    def step(self) -> int:
        """Work arrived events off, up to `MAX_BATCH_EVENTS`; returns their number.

        An event that cannot be worked off holds up nobody: those that arrived with it are worked
        off in ever smaller parts until it is alone, is tried once more, and is set apart.

        Raises:
            Exception: what `is_outage` tells of: Redis or the disk is away or full; call again
                later.
        """
        cursor: Any = self._client.get(CURSOR)
        sequence = self.store.sequence_from_cursor(cursor.decode() if cursor else None)
        if sequence != self._sequence:  # Redis changed
            self.features.clear()
        arrived = self._next_events(sequence)
        pending = self.store.pending_users() if self._failed_through is None else {}
        if pending:  # the published events changed
            self.features.clear()
        if arrived.last_seq == sequence and not pending:
            return 0
        self._begin(cursor, arrived)
        try:
            self._work_off(arrived, pending)
        except Exception as error:
            self.features = self.features.emptied()
            self._sequence = -1
            if is_outage(error):
                raise
            self._narrow_down(sequence, arrived, pending, error)
            return 0
        self._advance(arrived.last_seq)
        return len(arrived.rows)

    def _next_events(self, sequence: int) -> EventPage:
        """The events to work off next; of those that failed together, the first half."""
        limit = MAX_BATCH_EVENTS
        if self._failed_through is not None:
            limit = max(1, self.store.count_arrived(sequence, self._failed_through) // 2)
        arrived = self.store.events_after(sequence, limit)
        invalid = {row.event_id: why for row in arrived.rows if (why := why_invalid(row._asdict()))}
        if invalid:  # an older version took them
            self._set_apart(invalid)
            arrived = arrived._replace(
                rows=[row for row in arrived.rows if row.event_id not in invalid]
            )
        return arrived

    def _work_off(self, arrived: EventPage, pending: Mapping[str, int]) -> None:
        since = dict(pending)
        for row in arrived.rows:
            since[row.user_id] = min(row.event_us, since.get(row.user_id, row.event_us))
        rows_since = self._affected(since, arrived)
        if rows_since:
            self._write(self.features.rows(rows_since), pending, arrived.last_seq)
        elif pending:  # all of them wait for the next batch build
            with self.store.transaction():
                self.store.clear_pending(pending)

    def _advance(self, sequence: int) -> None:
        """All events up to this number are worked off, or set apart."""
        self._client.set(CURSOR, self.store.cursor_for(sequence))
        self._sequence, self._tries = sequence, 0
        if self._failed_through is not None and sequence >= self._failed_through:
            self._failed_through = None

    def _begin(self, cursor: bytes | None, arrived: EventPage) -> None:
        """Note what is worked on, for the case that it ends the process."""
        work = {
            "after": cursor.decode() if cursor else None,
            "through": arrived.last_seq,
            "events": [row.event_id for row in arrived.rows[:2]],
            "tries": self._tries,
        }
        self._client.set(AT_WORK, json.dumps(work))

    def _recall(self) -> None:
        """Go on after a worker that ended in the middle: what it was at may have ended it."""
        cursor, noted = self._client.get(CURSOR), self._client.get(AT_WORK)
        work = json.loads(noted) if noted else {}  # type: ignore[arg-type]
        if not work.get("events") or work["after"] != (cursor.decode() if cursor else None):  # type: ignore[union-attr]
            return
        self._failed_through = work["through"]
        if len(work["events"]) == 1:
            self._tries = work["tries"] + 1
            if self._tries > RETRIES:
                self._set_apart({work["events"][0]: "The live worker ended while it was at it"})
                self._tries = 0

    def _narrow_down(
        self, sequence: int, arrived: EventPage, pending: Mapping[str, int], error: Exception
    ) -> None:
        """Find out whose fault an error was; a single event is set apart after a second try."""
        logger.warning("%d events could not be worked off.", len(arrived.rows), exc_info=error)
        if pending:
            self._work_off_pending(EventPage([], sequence), pending)
        if not arrived.rows:
            return
        self._failed_through = arrived.last_seq
        if len(arrived.rows) == 1 and not pending:
            self._tries += 1
            if self._tries > RETRIES:
                self._set_apart({arrived.rows[0].event_id: describe(error)})
                self._advance(arrived.last_seq)

    def _work_off_pending(
        self, none: EventPage, pending: Mapping[str, int], tries: int = 0
    ) -> None:
        """Compute shoppers whose published events changed; one who cannot be is set apart."""
        try:
            self._work_off(none, pending)
        except Exception as error:
            self.features = self.features.emptied()
            if is_outage(error):
                raise
            users = list(pending)
            if len(users) == 1 and tries == RETRIES:
                set_shopper_apart(self.store, users[0], describe(error))
            elif len(users) == 1:
                self._work_off_pending(none, pending, tries + 1)
            else:
                half = len(users) // 2
                for part in (users[:half], users[half:]):
                    self._work_off_pending(none, {user: pending[user] for user in part})

    def _set_apart(self, errors: dict[str, str]) -> None:
        set_apart(self.store, errors)
        self.features.clear()
        for event_id, error in errors.items():
            logger.error("Event %r is set apart: %s. See: nextbuy live status", event_id, error)

    def _affected(self, since: Mapping[str, int], arrived: EventPage) -> dict[str, int]:
        """Everyone whose features the events may change -> since when; their events are cached."""
        known = {user: us for user, us in since.items() if user not in self.oversized}
        sizes: dict[str, int] = {}
        self._exclude_oversized([[user] for user in known], sizes)
        known = {user: us for user, us in known.items() if user not in self.oversized}
        max_shoppers = self.features.max_shoppers
        groups, has_new_crowd, too_many = affected_by(self.store, known, max_shoppers, MAX_LINKED)
        self._exclude(too_many, f"is linked to more than {MAX_LINKED} others by log-ins")
        if has_new_crowd:
            self.features.clear()
        self.features.make_room()
        cached = self.features.cached
        new = [row for row in arrived.rows if row.user_id in cached]
        self.features.cache((), to_arrow(linkable_rows(self.store, new, max_shoppers)))
        self._exclude_oversized([group.users for group in groups], sizes)
        groups = [group for group in groups if not self.oversized.intersection(group.users)]
        rows_since = {user: group.since_us for group in groups for user in group.users}
        missing = [user for user in rows_since if user not in cached]
        events = self.store.histories(missing, arrived.last_seq)
        self.features.cache(missing, to_arrow(linkable_rows(self.store, events, max_shoppers)))
        return rows_since

    def _exclude_oversized(self, groups: Sequence[Sequence[str]], sizes: dict[str, int]) -> None:
        """Exclude the groups with too many events; `sizes` keeps numbers of events once counted."""
        cached = self.features.cached
        users = {user for group in groups for user in group}
        sizes |= self.store.sizes(users - cached.keys() - sizes.keys())
        for group in groups:
            if sum(cached.get(user) or sizes.get(user, 0) for user in group) > MAX_HISTORY:
                self._exclude(group, f"has more than {MAX_HISTORY} events, with all linked ones")

    def _exclude(self, users: Iterable[str], why: str) -> None:
        for user in users:
            if user not in self.oversized:
                self.oversized.add(user)
                logger.warning(
                    "A shopper %s; their features wait for the next batch build "
                    "(nextbuy merge-live, sessionize, features, materialize).",
                    why,
                )

    def _write(
        self, tables: Mapping[str, pa.Table], pending: Mapping[str, int], sequence: int
    ) -> None:
        created = now_us()
        batch = begin_batch(self.store, tables, created)
        for view, rows in tables.items():
            into = self._layouts[view]
            encoded = rows_from_arrow(self._feast.config, into, rows, "event_timestamp")
            write(self._client, self._feast.config, into, [encoded])
        end_batch(self.store, batch, now_us(), pending, sequence)

    def report(self, problem: str | None = None) -> None:
        """Tell `live_health` that this worker is alive, and what holds it up."""
        report_worker(self.store, self._sequence, len(self.oversized), problem)


def _published(settings: Settings) -> list[str | None]:
    tables = (manifest(settings.events), manifest(settings.sessions))
    fingerprints = [table.fingerprint if table else None for table in tables]
    return [*fingerprints, live_settings(settings).time_zone]


def work(settings: Settings, is_over: Callable[[], bool]) -> None:
    """Process events until `is_over`, or until what is published changes."""
    worker = Worker(settings)
    worker.report()
    logger.info("The live worker is ready.")
    polled = time.monotonic()
    problem = None
    while not is_over():
        try:
            processed = worker.step()
            problem = None
        except Exception as error:
            if not is_outage(error):
                raise
            problem = describe(error)
            logger.warning("Live features wait: %s", problem)
            worker.features = worker.features.emptied()
            time.sleep(RETRY_SECONDS)
            with suppress(NextbuyError):
                ensure_running(settings)  # the embedded server is started again
            processed = 1
        if not processed:
            time.sleep(IDLE_SECONDS)
        if time.monotonic() - polled > POLL_SECONDS:
            polled = time.monotonic()
            worker.report(problem)
            if problem is None and worker.is_outdated():
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
            with suppress(sqlite3.Error), LiveStore(settings) as store:
                report_worker(store, None, 0, str(error))
            over.wait(1)


if __name__ == "__main__":
    main()
