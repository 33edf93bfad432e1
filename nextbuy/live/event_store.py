"""The live store: one SQLite file with each shopper's events and the order of their arrival.

SQLite gives what an acknowledgement needs: a commit is on the disk, event ids are unique, a
shopper's events are one range of a B-tree, several processes may write, and deleted content is
overwritten. Everything in Redis can be rebuilt from this file and the published tables.

Published events are copied in (`nextbuy.live.sync`), so that repeated events are recognized and a
shopper's whole history is available.
"""

import json
import sqlite3
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from nextbuy.events import COMPUTED_SCHEMA
from nextbuy.settings import Settings
from nextbuy.tables.identity import linked_users_sql

COLUMNS = tuple(COMPUTED_SCHEMA.names)
"""Columns of an event, in order; `EventRow` has the same."""
SQLITE_TYPES = {pa.int64(): "INTEGER", pa.string(): "TEXT"}
BUSY_SECONDS = 30.0
MAX_IDS_IN_QUERY = 500
ERASURES = "forgotten"
"""Meta value: how many times a shopper was erased. The name is on disks."""

LINKED_USERS = linked_users_sql(
    "SELECT value, value FROM json_each(?)", "shared", "source_session_id"
)

Outcome = Literal["new", "duplicate", "conflict"]


class EventRow(NamedTuple):
    """An event's values, in the order of `COLUMNS`."""

    event_id: str
    user_id: str
    event_us: int
    event_type: str
    item_id: str | None = None
    category: str | None = None
    brand: str | None = None
    price: int | None = None
    discount: int | None = None
    source_session_id: str | None = None


SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    {", ".join(f"{field.name} {SQLITE_TYPES[field.type]}" for field in COMPUTED_SCHEMA)},
    seq INTEGER, -- order of arrival; null for published events
    received_us INTEGER,
    PRIMARY KEY (user_id, event_us, event_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS event_ids ON events (event_id);
CREATE UNIQUE INDEX IF NOT EXISTS arrivals ON events (seq) WHERE seq IS NOT NULL;
CREATE TABLE IF NOT EXISTS items (item_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS visits (
    source_session_id TEXT, user_id TEXT, PRIMARY KEY (source_session_id, user_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shared ( -- visits to shop sessions that have several shoppers
    user_id TEXT, source_session_id TEXT, PRIMARY KEY (user_id, source_session_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS shared_by ON shared (source_session_id);
CREATE TABLE IF NOT EXISTS stale (user_id TEXT PRIMARY KEY, since_us INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches ( -- feature rows of one step: when computed, when in Redis
    batch INTEGER PRIMARY KEY AUTOINCREMENT, created_us INTEGER NOT NULL, written_us INTEGER
);
CREATE TABLE IF NOT EXISTS rows (
    batch INTEGER, view TEXT, rows BLOB NOT NULL, PRIMARY KEY (batch, view)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS materialized (
    view TEXT, folder TEXT, newest_us INTEGER, began_us INTEGER, ended_us INTEGER
);
CREATE TABLE IF NOT EXISTS shrunk (view TEXT, began_us INTEGER); -- loads that removed rows
"""

SHOPPER_COLUMNS = {
    "events": "user_id",
    "visits": "user_id",
    "shared": "user_id",
    "stale": "user_id",
}
"""Table -> its column that holds a shopper's id. In `rows` the ids are within the serialized
tables (`nextbuy.live.write_history`); the other tables hold none."""


def now_us() -> int:
    """The clock, in microseconds since 1970."""
    return time.time_ns() // 1000


class EventPage(NamedTuple):
    """Events in the order of their arrival."""

    rows: list[EventRow]
    last_seq: int
    """Sequence number of the last event; without events, the number they were to follow."""


class LiveStore:
    """A connection to the live store; one for each thread.

    >>> with LiveStore(Settings()) as store:
    ...     store.newest_us()
    """

    def __init__(self, settings: Settings) -> None:
        self.path: Path = settings.live / "events.sqlite"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.sql = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        self.sql.execute("PRAGMA journal_mode = WAL")
        self.sql.execute("PRAGMA synchronous = FULL")  # a commit is on the disk when it returns
        self.sql.execute("PRAGMA secure_delete = ON")  # deleted content is overwritten
        self.sql.executescript(SCHEMA)
        self.sql.execute("INSERT OR IGNORE INTO meta VALUES ('id', ?)", [uuid.uuid4().hex])

    def __enter__(self) -> "LiveStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.sql.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything written in the block is on the disk at its end, or nothing is."""
        self.sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.sql.execute("COMMIT")
        except BaseException:
            if self.sql.in_transaction:  # a full disk may have ended it already
                self.sql.execute("ROLLBACK")
            raise

    def get_meta(self, name: str) -> str | None:
        """A named value of the store; None where it was never set."""
        row = self.sql.execute("SELECT value FROM meta WHERE name = ?", [name]).fetchone()
        return None if row is None else str(row[0])

    def set_meta(self, name: str, value: object) -> None:
        """Set a named value, within a transaction."""
        self.sql.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [name, str(value)])

    def newest_us(self) -> int | None:
        """Time of the newest event, in microseconds since 1970; None in an empty store."""
        newest = self.get_meta("newest_us")
        return None if newest is None else int(newest)

    def append(self, rows: Sequence[EventRow], received_us: int) -> list[Outcome]:
        """Store events; when this returns, the new ones are on the disk.

        An event whose id is known is a `duplicate` if it is the same event, else a `conflict`;
        neither changes the store.
        """
        outcomes: list[Outcome] = []
        with self.transaction():
            ids = [row.event_id for row in rows]
            known = {row[0]: row for row in self._select_by("event_id", ids, ", ".join(COLUMNS))}
            new: list[EventRow] = []
            for row in rows:
                if row.event_id in known:
                    outcomes.append("duplicate" if known[row.event_id] == row else "conflict")
                    continue
                outcomes.append("new")
                known[row.event_id] = row
                new.append(row)
            if new:
                self._insert(new, received_us)
        return outcomes

    def _insert(self, rows: list[EventRow], received_us: int) -> None:
        first = int(self.get_meta("seq") or 0) + 1
        self.sql.executemany(
            f"INSERT INTO events VALUES ({', '.join('?' * (len(COLUMNS) + 2))})",
            ((*row, first + i, received_us) for i, row in enumerate(rows)),
        )
        self.set_meta("seq", first + len(rows) - 1)
        self.record_items(rows)

    def record_items(self, rows: Sequence[EventRow]) -> None:
        """Record the items, shop sessions and newest time of events that were just inserted."""
        items = {row.item_id for row in rows if row.item_id is not None}
        visits = {
            (row.source_session_id, row.user_id)
            for row in rows
            if row.source_session_id is not None
        }
        self.sql.executemany("INSERT OR IGNORE INTO items VALUES (?)", ((i,) for i in items))
        self.sql.executemany("INSERT OR IGNORE INTO visits VALUES (?, ?)", visits)
        self.sql.execute(
            "INSERT OR IGNORE INTO shared SELECT v.user_id, v.source_session_id "
            "FROM json_each(?) AS s JOIN visits AS v ON v.source_session_id = s.value "
            "WHERE EXISTS (SELECT 1 FROM visits AS w WHERE w.source_session_id = s.value "
            "AND w.user_id <> v.user_id)",
            [json.dumps(list({session for session, _ in visits}))],
        )
        newest, before = max(row.event_us for row in rows), self.newest_us()
        if before is None or newest > before:
            self.set_meta("newest_us", newest)

    def unknown_items(self, items: Collection[str]) -> list[str]:
        """Those of the items that no event names, in order."""
        rows = self.sql.execute(
            "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT item_id FROM items) "
            "ORDER BY value",
            [json.dumps(sorted(items))],
        )
        return [item for (item,) in rows]

    def cursor_for(self, seq: int) -> str:
        """A sequence number together with this store's id; another store ignores it."""
        return f"{self.get_meta('id')}:{seq}"

    def sequence_from_cursor(self, cursor: str | None) -> int:
        """The sequence number of a cursor; 0 for none, or another store's."""
        store, _, seq = (cursor or "").rpartition(":")
        return int(seq) if store == self.get_meta("id") else 0

    def events_after(self, seq: int, limit: int) -> EventPage:
        """Up to `limit` events that arrived after number `seq`."""
        rows = self.sql.execute(
            f"SELECT {', '.join(COLUMNS)}, seq FROM events WHERE seq > ? ORDER BY seq LIMIT ?",
            [seq, limit],
        ).fetchall()
        return EventPage([EventRow._make(row[:-1]) for row in rows], rows[-1][-1] if rows else seq)

    def histories(self, users: Collection[str], through: int) -> pa.Table:
        """All events of these shoppers, published or arrived up to number `through`.

        Returns:
            rows of `COMPUTED_SCHEMA`.
        """
        rows = self._select_by("user_id", users, f"{', '.join(COLUMNS)}, seq")
        return to_arrow([row for row in rows if row[-1] is None or row[-1] <= through])

    def sizes(self, users: Collection[str]) -> dict[str, int]:
        """Shopper -> number of events, for those that have any."""
        return dict(self._select_by("user_id", users, "user_id, count(*)", " GROUP BY user_id"))

    def linked_users(self, users: Collection[str]) -> dict[str, list[str]]:
        """Shopper -> everyone whose features may depend on their events, themselves included.

        They are linked by shop sessions with several shoppers: a login in such a session links
        two of them.
        """
        rows = self.sql.execute(LINKED_USERS, [json.dumps(sorted(users))])
        linked: dict[str, list[str]] = {}
        for root, user in rows:
            linked.setdefault(root, []).append(user)
        return linked

    def compact(self) -> None:
        """Remove deleted content from all of the store's files."""
        self.sql.execute("VACUUM")
        self.sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def pending_users(self) -> dict[str, int]:
        """Shoppers whose history was changed by a publication -> since when.

        Their live features have to be computed again.
        """
        return dict(self.sql.execute("SELECT user_id, since_us FROM stale").fetchall())

    def clear_pending(self, users: dict[str, int]) -> None:
        """These have been computed; those that changed again meanwhile stay pending."""
        self.sql.executemany("DELETE FROM stale WHERE user_id = ? AND since_us = ?", users.items())

    def _select_by(
        self, column: str, values: Iterable[str], select: str, suffix: str = ""
    ) -> Iterator[tuple[Any, ...]]:
        distinct = sorted(set(values))
        for start in range(0, len(distinct), MAX_IDS_IN_QUERY):
            part = distinct[start : start + MAX_IDS_IN_QUERY]
            marks = ", ".join("?" * len(part))
            yield from self.sql.execute(
                f"SELECT {select} FROM events WHERE {column} IN ({marks}){suffix}", part
            )


def to_arrow(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    """Events, in the order of `COLUMNS`, as an Arrow table of `COMPUTED_SCHEMA`."""
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    arrays = [
        pa.array(column, field.type)
        for column, field in zip(columns, COMPUTED_SCHEMA, strict=False)
    ]
    return pa.Table.from_arrays(arrays, schema=COMPUTED_SCHEMA)
