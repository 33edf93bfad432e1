"""The live store: one SQLite file that holds each shopper's events, in the order of their arrival.

SQLite because it is what an acknowledgement needs and no more: a commit is on the disk, an id is
unique, a shopper's events are one range of a B-tree, several processes may write, and what is
deleted is overwritten. Redis holds nothing that could not be made again from this file and the
published tables.

Published events are copied in (`sync`), so that a repeated one is known and a shopper's past is
at hand.
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

COLUMNS = tuple(COMPUTED_SCHEMA.names)
"""Of an event."""
SQLITE = {pa.int64(): "INTEGER", pa.string(): "TEXT"}
BUSY_SECONDS = 30.0
PIECE = 500  # values in one IN list

Outcome = Literal["new", "duplicate", "conflict"]
Row = tuple[Any, ...]
"""An event's values, in the order of `COLUMNS`."""

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    {", ".join(f"{field.name} {SQLITE[field.type]}" for field in COMPUTED_SCHEMA)},
    seq INTEGER, -- order of arrival; null: published
    received_us INTEGER,
    PRIMARY KEY (user_id, event_us, event_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS event_ids ON events (event_id);
CREATE UNIQUE INDEX IF NOT EXISTS arrivals ON events (seq) WHERE seq IS NOT NULL;
CREATE TABLE IF NOT EXISTS items (item_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS visits (
    source_session_id TEXT, user_id TEXT, PRIMARY KEY (source_session_id, user_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS shared ( -- the visits of shop sessions that several shoppers were in
    user_id TEXT, source_session_id TEXT, PRIMARY KEY (user_id, source_session_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS shared_by ON shared (source_session_id);
CREATE TABLE IF NOT EXISTS stale (user_id TEXT PRIMARY KEY, since_us INTEGER) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches ( -- feature rows of one run: meant for Redis, and taken by it
    batch INTEGER PRIMARY KEY AUTOINCREMENT, created_us INTEGER NOT NULL, written_us INTEGER
);
CREATE TABLE IF NOT EXISTS rows (
    batch INTEGER, view TEXT, rows BLOB NOT NULL, PRIMARY KEY (batch, view)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS materialized (
    view TEXT, folder TEXT, newest_us INTEGER, began_us INTEGER, ended_us INTEGER
);
"""


def now_us() -> int:
    """The clock, in microseconds since 1970."""
    return time.time_ns() // 1000


class Arrived(NamedTuple):
    """Events in the order of their arrival, and the number of the last."""

    rows: list[Row]
    last: int


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
        self.sql.execute("PRAGMA synchronous = FULL")  # a commit is on the disk, not on its way
        self.sql.execute("PRAGMA secure_delete = ON")  # what is forgotten is overwritten
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
        """All that is written in the block is on the disk at its end, or nothing is."""
        self.sql.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.sql.execute("COMMIT")
        except BaseException:
            if self.sql.in_transaction:  # a full disk may have ended it already
                self.sql.execute("ROLLBACK")
            raise

    def note(self, name: str) -> str | None:
        """A remark kept under this name."""
        found = self.sql.execute("SELECT value FROM meta WHERE name = ?", [name]).fetchone()
        return None if found is None else str(found[0])

    def keep(self, name: str, value: object) -> None:
        """Keep a remark, within a transaction."""
        self.sql.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", [name, str(value)])

    def newest_us(self) -> int | None:
        """Time of the newest event there is."""
        found = self.note("newest_us")
        return None if found is None else int(found)

    def append(self, rows: Sequence[Row], received_us: int) -> list[Outcome]:
        """Take events in; when this returns, the new ones are on the disk.

        An event whose id is known is a duplicate and changes nothing, or conflicts with what the
        id stands for.
        """
        outcomes: list[Outcome] = []
        with self.transaction():
            known = self._known([row[0] for row in rows])
            fresh: list[Row] = []
            for row in rows:
                outcomes.append("new" if row[0] not in known else _again(known[row[0]], row))
                if row[0] not in known:
                    known[row[0]] = row
                    fresh.append(row)
            if fresh:
                self._insert(fresh, received_us)
        return outcomes

    def _insert(self, fresh: list[Row], received_us: int) -> None:
        first = int(self.note("seq") or 0) + 1
        self.sql.executemany(
            f"INSERT INTO events VALUES ({', '.join('?' * (len(COLUMNS) + 2))})",
            ((*row, first + i, received_us) for i, row in enumerate(fresh)),
        )
        self.keep("seq", first + len(fresh) - 1)
        self.observe(fresh)

    def observe(self, rows: Sequence[Row]) -> None:
        """Note the items, shop sessions and times of events that were just inserted."""
        at = {name: i for i, name in enumerate(COLUMNS)}
        item, session, user = at["item_id"], at["source_session_id"], at["user_id"]
        items = {row[item] for row in rows if row[item] is not None}
        visits = {(row[session], row[user]) for row in rows if row[session] is not None}
        self.sql.executemany("INSERT OR IGNORE INTO items VALUES (?)", ((i,) for i in items))
        self.sql.executemany("INSERT OR IGNORE INTO visits VALUES (?, ?)", visits)
        self.sql.execute(
            "INSERT OR IGNORE INTO shared SELECT v.user_id, v.source_session_id "
            "FROM json_each(?) AS s JOIN visits AS v ON v.source_session_id = s.value "
            "WHERE EXISTS (SELECT 1 FROM visits AS w WHERE w.source_session_id = s.value "
            "AND w.user_id <> v.user_id)",
            [json.dumps(list({s for s, _ in visits}))],
        )
        newest = max(row[at["event_us"]] for row in rows)
        if newest > (self.newest_us() or -(2**62)):
            self.keep("newest_us", newest)

    def _known(self, ids: list[str]) -> dict[str, Row]:
        found = self._by("event_id", ids, ", ".join(COLUMNS))
        return {row[0]: row for row in found}

    def unknown_items(self, items: Collection[str]) -> list[str]:
        """Those of the items that no event was ever about, in order."""
        found = self.sql.execute(
            "SELECT value FROM json_each(?) WHERE value NOT IN (SELECT item_id FROM items) "
            "ORDER BY value",
            [json.dumps(sorted(items))],
        )
        return [item for (item,) in found]

    def cursor(self, seq: int) -> str:
        """Names a place in this store's order of arrival; another store's means nothing here."""
        return f"{self.note('id')}:{seq}"

    def place(self, cursor: str | None) -> int:
        """The number behind a cursor; 0 for none, or another store's."""
        name, _, seq = (cursor or "").rpartition(":")
        return int(seq) if name == self.note("id") else 0

    def arrived(self, after: int, most: int) -> Arrived:
        """Up to `most` events that arrived after number `after`."""
        found = self.sql.execute(
            f"SELECT {', '.join(COLUMNS)}, seq FROM events WHERE seq > ? ORDER BY seq LIMIT ?",
            [after, most],
        ).fetchall()
        return Arrived([row[:-1] for row in found], found[-1][-1] if found else after)

    def histories(self, users: Collection[str], through: int) -> pa.Table:
        """All events of these shoppers, published or arrived up to number `through`."""
        found = [
            row
            for row in self._by("user_id", users, f"{', '.join(COLUMNS)}, seq")
            if row[-1] is None or row[-1] <= through
        ]
        return arrow(found)

    def sizes(self, users: Collection[str]) -> dict[str, int]:
        """How many events each of these shoppers has."""
        return dict(self._by("user_id", users, "user_id, count(*)", " GROUP BY user_id"))

    def circles(self, users: Collection[str]) -> dict[str, list[str]]:
        """Shopper -> everybody, the shopper among them, whose features may depend on them.

        Those are the ones reached through shop sessions that several shoppers were in: a log-in
        in one of them makes one person of two.
        """
        found = self.sql.execute(
            "WITH RECURSIVE reached (root, user_id) AS ("
            "SELECT value, value FROM json_each(?) "
            "UNION SELECT root, b.user_id FROM reached JOIN shared AS a USING (user_id) "
            "JOIN shared AS b ON b.source_session_id = a.source_session_id) "
            "SELECT root, user_id FROM reached",
            [json.dumps(sorted(users))],
        )
        circles: dict[str, list[str]] = {}
        for root, user in found:
            circles.setdefault(root, []).append(user)
        return circles

    def compact(self) -> None:
        """Leave nothing of what was deleted in any of the store's files."""
        self.sql.execute("VACUUM")
        self.sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def stale(self) -> dict[str, int]:
        """Shoppers whose past was changed by a publication -> since when."""
        return dict(self.sql.execute("SELECT user_id, since_us FROM stale").fetchall())

    def settle(self, found: dict[str, int]) -> None:
        """These are made again; what became stale in between stays so."""
        self.sql.executemany("DELETE FROM stale WHERE user_id = ? AND since_us = ?", found.items())

    def _by(self, column: str, values: Iterable[str], select: str, end: str = "") -> Iterator[Row]:
        wanted = sorted(set(values))
        for start in range(0, len(wanted), PIECE):
            piece = wanted[start : start + PIECE]
            marks = ", ".join("?" * len(piece))
            yield from self.sql.execute(
                f"SELECT {select} FROM events WHERE {column} IN ({marks}){end}", piece
            )


def _again(known: Row, row: Row) -> Outcome:
    return "duplicate" if known == row else "conflict"


def arrow(rows: Sequence[Row]) -> pa.Table:
    """Events as an Arrow table of the shape of `COMPUTED_SCHEMA`."""
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    arrays = [
        pa.array(column, field.type)
        for column, field in zip(columns, COMPUTED_SCHEMA, strict=False)
    ]
    return pa.Table.from_arrays(arrays, schema=COMPUTED_SCHEMA)
