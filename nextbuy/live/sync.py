"""Published events into the live store."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import date

from nextbuy.connection import duckdb_connection
from nextbuy.live.event_store import COLUMNS, LiveStore, Row
from nextbuy.settings import Settings
from nextbuy.tables.incremental import differing
from nextbuy.times import DAY, EPOCH
from nextbuy.versioned_table import lock, manifest, read_days

CHUNK = 20_000  # rows in one transaction: others may write in between
SELECTED = ", ".join("epoch_us(event_time) AS event_us" if c == "event_us" else c for c in COLUMNS)


def sync(settings: Settings, store: LiveStore, progress: Callable[[int], None]) -> int:
    """Bring what the live store knows of the published events up to date; returns events read.

    Only days that changed since the last time are read.
    A live event that was published meanwhile stays where it is. Shoppers with live events whose
    past changed are noted as stale. `progress` is told the number of events copied so far.

    Raises:
        NextbuyError: another copy runs, or an erasure, whose work a copy of older files would undo.
    """
    with copying(settings):
        return _sync(settings, store, progress)


def copying(settings: Settings) -> AbstractContextManager[None]:
    """Hold the published events' way into the live store.

    Raises:
        NextbuyError: somebody else holds it.
    """
    return lock(settings.live / "copying.lock", "The live store is being filled or cleaned")


def _sync(settings: Settings, store: LiveStore, progress: Callable[[int], None]) -> int:
    published = manifest(settings.events)
    if published is None or store.note("published") == published.fingerprint:
        return 0
    before = json.loads(store.note("published_days") or "{}")
    gone_days, come_days = differing(before, published.days)
    numbers = [(date.fromisoformat(day) - EPOCH.date()).days for day in (*gone_days, *come_days)]
    known = {
        row[0]: hash(row)
        for row in store.sql.execute(
            f"SELECT {', '.join(COLUMNS)} FROM events WHERE seq IS NULL AND event_us / {DAY} IN "
            "(SELECT value FROM json_each(?))",
            [json.dumps(numbers)],
        )
    }
    gone = set(known)
    copied = 0
    with duckdb_connection(settings) as connection:
        reader = connection.sql(
            f"SELECT {SELECTED} FROM {read_days(settings.events, come_days)} "
            "ORDER BY user_id, event_us, event_id"
        ).to_arrow_reader(CHUNK)
        for batch in reader:
            rows = list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
            gone.difference_update(row[0] for row in rows)
            fresh = [row for row in rows if known.get(row[0]) != hash(row)]
            _add(store, fresh, [row[0] for row in fresh if row[0] in known])
            copied += len(rows)
            progress(copied)
    with store.transaction():  # replaced or forgotten
        store.sql.executemany("DELETE FROM events WHERE event_id = ?", ((i,) for i in gone))
        store.keep("published", published.fingerprint)
        store.keep("published_days", json.dumps(published.days))
    return copied


def _add(store: LiveStore, rows: list[Row], changed: list[str]) -> None:
    """Add published events; those named in `changed` had another content before."""
    if not rows:
        return
    places = ", ".join("?" * len(COLUMNS))
    with store.transaction():
        store.sql.executemany(
            "DELETE FROM events WHERE event_id = ? AND seq IS NULL", ((i,) for i in changed)
        )
        before = store.sql.total_changes
        store.sql.executemany(f"INSERT OR IGNORE INTO events VALUES ({places}, NULL, NULL)", rows)
        if store.sql.total_changes == before:
            return  # all of them had arrived live
        store.observe(rows)
        since: dict[str, int] = {}
        for row in rows:
            since[row[1]] = min(row[2], since.get(row[1], row[2]))
        store.sql.executemany(
            "INSERT INTO stale SELECT ?1, ?2 WHERE EXISTS (SELECT 1 FROM events "
            "WHERE user_id = ?1 AND seq IS NOT NULL) "
            "ON CONFLICT (user_id) DO UPDATE SET since_us = min(since_us, excluded.since_us)",
            since.items(),
        )
