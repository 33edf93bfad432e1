"""Copies published events into the live store."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date

from nextbuy.connection import duckdb_connection
from nextbuy.live.event_store import COLUMNS, EventRow, LiveStore
from nextbuy.settings import Settings
from nextbuy.tables.incremental import differing
from nextbuy.times import DAY, EPOCH
from nextbuy.versioned_table import lock, manifest, read_days

BATCH_ROWS = 20_000  # in one transaction: others may write in between
SELECTED = ", ".join("epoch_us(event_time) AS event_us" if c == "event_us" else c for c in COLUMNS)


def sync(settings: Settings, store: LiveStore, progress: Callable[[int], None]) -> int:
    """Copy the published events that changed since the last call; returns the events read.

    Only days that changed are read. A live event that was published meanwhile stays as it is.
    Shoppers with live events whose history changed become pending. `progress` is called with the
    number of events read so far.

    Raises:
        NextbuyError: another copy runs, or an erasure, which a copy of older files would undo.
    """
    with copy_lock(settings):
        return _sync(settings, store, progress)


def copy_lock(settings: Settings) -> AbstractContextManager[None]:
    """Keeps published events from being copied into the live store.

    Raises:
        NextbuyError: another process holds the lock.
    """
    return lock(settings.live / "copying.lock", "The live store is being filled or cleaned")


def _sync(settings: Settings, store: LiveStore, progress: Callable[[int], None]) -> int:
    published = manifest(settings.events)
    if published is None or store.get_meta("published") == published.fingerprint:
        return 0
    before = json.loads(store.get_meta("published_days") or "{}")
    removed_days, added_days = differing(before, published.days)
    numbers = [(date.fromisoformat(day) - EPOCH.date()).days for day in removed_days + added_days]
    known = {
        row[0]: hash(row)
        for row in store.sql.execute(
            f"SELECT {', '.join(COLUMNS)} FROM events WHERE seq IS NULL AND event_us / {DAY} IN "
            "(SELECT value FROM json_each(?))",
            [json.dumps(numbers)],
        )
    }
    removed = set(known)
    copied = 0
    with duckdb_connection(settings) as connection:
        reader = connection.sql(
            f"SELECT {SELECTED} FROM {read_days(settings.events, added_days)} "
            "ORDER BY user_id, event_us, event_id"
        ).to_arrow_reader(BATCH_ROWS)
        for batch in reader:
            columns = (column.to_pylist() for column in batch.columns)
            rows = [EventRow._make(values) for values in zip(*columns, strict=True)]
            removed.difference_update(row.event_id for row in rows)
            different = [row for row in rows if known.get(row.event_id) != hash(row)]
            _add(store, different, [row.event_id for row in different if row.event_id in known])
            copied += len(rows)
            progress(copied)
    with store.transaction():  # removed: replaced by another log, or erased
        store.sql.executemany(
            "INSERT INTO stale (user_id, since_us) SELECT user_id, event_us FROM events AS gone "
            "WHERE event_id = ? AND EXISTS "
            "(SELECT 1 FROM events WHERE user_id = gone.user_id AND seq IS NOT NULL) "
            "ON CONFLICT (user_id) DO UPDATE "
            "SET since_us = min(since_us, excluded.since_us), error = NULL",
            ((i,) for i in removed),
        )
        store.remove(removed)
        store.set_meta("published", published.fingerprint)
        store.set_meta("published_days", json.dumps(published.days))
    return copied


def _add(store: LiveStore, rows: list[EventRow], changed: list[str]) -> None:
    """Add published events; those whose ids are in `changed` had another content before."""
    if not rows:
        return
    marks = ", ".join("?" * len(COLUMNS))
    with store.transaction():
        store.remove(changed)
        before = store.sql.total_changes
        store.sql.executemany(f"INSERT OR IGNORE INTO events VALUES ({marks}, NULL, NULL)", rows)
        if store.sql.total_changes == before:
            return  # all of them had arrived live
        store.record_items(rows)
        since: dict[str, int] = {}
        for row in rows:
            since[row.user_id] = min(row.event_us, since.get(row.user_id, row.event_us))
        store.sql.executemany(
            "INSERT INTO stale (user_id, since_us) SELECT ?1, ?2 WHERE EXISTS "
            "(SELECT 1 FROM events WHERE user_id = ?1 AND seq IS NOT NULL) ON CONFLICT (user_id) "
            "DO UPDATE SET since_us = min(since_us, excluded.since_us), error = NULL",
            since.items(),
        )
