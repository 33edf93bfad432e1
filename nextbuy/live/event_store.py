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
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from nextbuy.events import COMPUTED_SCHEMA
from nextbuy.live.store_schema import SCHEMA, needs_upgrade, upgrade
from nextbuy.settings import Settings
from nextbuy.tables.identity import linked_users_sql
from nextbuy.times import END_OF_TIME_US

COLUMNS = tuple(COMPUTED_SCHEMA.names)
"""Columns of an event, in order; `EventRow` has the same."""
BUSY_SECONDS = 30.0
MAX_IDS_IN_QUERY = 500
ERASURES = "forgotten"
"""Meta value: how many times a shopper was erased. The name is on disks."""
WORKED = "worked"
"""Meta value: number of the last event whose features were written. Redis has the one that counts;
this one tells how far the worker is while Redis is away."""

CROWDED_US = (
    "(SELECT first_us FROM visits INDEXED BY visits_in_order "
    "WHERE source_session_id = {} ORDER BY first_us LIMIT 1 OFFSET ?1)"
)
"""SQL: since when more shoppers than parameter 1 have used a shop session; null for never."""
_OWN_CROWDED_US = CROWDED_US.format("own.source_session_id")
_HAS_LOGIN = (
    "EXISTS (SELECT 1 FROM events WHERE source_session_id = own.source_session_id "
    "AND event_type = 'login')"
)
VISITS = (
    f"SELECT user_id, source_session_id, first_us, {_OWN_CROWDED_US}, "
    "EXISTS (SELECT 1 FROM visits AS other WHERE "
    "other.source_session_id = own.source_session_id AND other.user_id <> own.user_id) "
    "FROM visits AS own INDEXED BY visits_of_user "
    f"WHERE user_id IN ({{}}) AND {_HAS_LOGIN}"
)
LINKED = linked_users_sql(
    "SELECT 0, ?2",
    "(SELECT own.user_id AS user_id, other.user_id AS other_id "
    "FROM visits AS own INDEXED BY visits_of_user "
    "CROSS JOIN visits AS other INDEXED BY visits_in_order "
    "ON other.source_session_id = own.source_session_id "
    f"AND own.first_us < coalesce({_OWN_CROWDED_US}, {END_OF_TIME_US}) "
    f"AND other.first_us < coalesce({_OWN_CROWDED_US}, {END_OF_TIME_US}) AND {_HAS_LOGIN})",
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


def now_us() -> int:
    """The clock, in microseconds since 1970."""
    return time.time_ns() // 1000


class EventPage(NamedTuple):
    """Events in the order of their arrival."""

    rows: list[EventRow]
    last_seq: int
    """Sequence number of the last event; without events, the number they were to follow."""


class Visit(NamedTuple):
    """A shopper's visit to a shop session."""

    user: str
    session: str
    first_us: int
    crowded_us: int | None
    """Since when more shoppers than one can have used the session; None for never."""
    has_others: bool
    """Whether other shoppers used it."""


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
        if needs_upgrade(self.sql):
            with self.transaction():
                upgrade(self.sql)
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
            known = {
                row[0]: row
                for table in ("events", "set_apart")
                for row in self._select_by("event_id", ids, ", ".join(COLUMNS), table=table)
            }
            new: list[EventRow] = []
            for row in rows:
                if row.event_id in known:
                    outcomes.append("duplicate" if known[row.event_id] == row else "conflict")
                    continue
                outcomes.append("new")
                known[row.event_id] = row
                new.append(row)
            if new:
                self.insert(new, received_us)
        return outcomes

    def insert(self, rows: Sequence[EventRow], received_us: int) -> None:
        """Add events that the store does not have, within a transaction; they arrive now."""
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
        visits: dict[tuple[str, str], int] = {}
        for row in rows:
            if row.source_session_id is not None:
                visit = row.source_session_id, row.user_id
                visits[visit] = min(row.event_us, visits.get(visit, row.event_us))
        self.sql.executemany("INSERT OR IGNORE INTO items VALUES (?)", ((i,) for i in items))
        self.sql.executemany(
            "INSERT INTO visits VALUES (?, ?, ?) ON CONFLICT DO UPDATE "
            "SET first_us = excluded.first_us WHERE excluded.first_us < first_us",
            ((*visit, first_us) for visit, first_us in visits.items()),
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

    def count_arrived(self, after: int, through: int) -> int:
        """How many events arrived after one number, up to another."""
        query = "SELECT count(*) FROM events WHERE seq > ? AND seq <= ?"
        ((count,),) = self.sql.execute(query, [after, through]).fetchall()
        return int(count)

    def histories(self, users: Collection[str], through: int) -> list[EventRow]:
        """All events of these shoppers, published or arrived up to number `through`."""
        rows = self._select_by("user_id", users, f"{', '.join(COLUMNS)}, seq")
        return [EventRow._make(row[:-1]) for row in rows if row[-1] is None or row[-1] <= through]

    def sizes(self, users: Collection[str]) -> dict[str, int]:
        """Shopper -> number of events, for those that have any."""
        return dict(self._select_by("user_id", users, "user_id, count(*)", " GROUP BY user_id"))

    def crowded_since(self, sessions: Collection[str], max_shoppers: int) -> dict[str, int]:
        """Shop session -> since when more shoppers than `max_shoppers` have used it."""
        query = (
            "WITH most AS (SELECT ?1), named (id) AS (VALUES {}), "
            f"crowds AS (SELECT id, {CROWDED_US.format('id')} AS us FROM named) "
            "SELECT id, us FROM crowds WHERE us IS NOT NULL"
        )
        return dict(self._in_parts(query, sessions, "(?)", max_shoppers))

    def visits_with_login(self, users: Collection[str], max_shoppers: int) -> Iterator[Visit]:
        """The visits of some shoppers to shop sessions that have a log-in."""
        return map(Visit._make, self._in_parts(VISITS, users, "?", max_shoppers))

    def first_users(self, session: str, count: int) -> list[str]:
        """Up to `count` shoppers of a shop session, the first ones."""
        rows = self.sql.execute(
            "SELECT user_id FROM visits INDEXED BY visits_in_order WHERE source_session_id = ? "
            "ORDER BY first_us LIMIT ?",
            [session, count],
        )
        return [user for (user,) in rows]

    def linked_users(self, user: str, max_shoppers: int, limit: int) -> list[str]:
        """Up to `limit` shoppers, `user` first, whom log-ins may link, if only by others.

        Chains of shop sessions with a log-in lead to them, each as long as it is not crowded.
        """
        rows = self.sql.execute(f"{LINKED} LIMIT ?3", [max_shoppers, user, limit])
        return [other for _, other in rows]

    def remove(self, event_ids: Collection[str]) -> None:
        """Remove events, within a transaction, and the visits that nothing else tells of."""
        visits = set(self._select_by("event_id", event_ids, "user_id, source_session_id"))
        self.sql.executemany("DELETE FROM events WHERE event_id = ?", ((i,) for i in event_ids))
        self.sql.executemany(
            "DELETE FROM visits WHERE user_id = ? AND source_session_id = ?", visits
        )
        self.sql.executemany(
            "INSERT INTO visits SELECT source_session_id, user_id, min(event_us) FROM events "
            "WHERE user_id = ? AND source_session_id = ? GROUP BY source_session_id, user_id",
            visits,
        )

    def compact(self) -> None:
        """Remove deleted content from all of the store's files."""
        self.sql.execute("VACUUM")
        self.sql.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def pending_users(self) -> dict[str, int]:
        """Shoppers whose history was changed by a publication -> since when.

        Their live features have to be computed again; those that could not be are left out.
        """
        query = "SELECT user_id, since_us FROM stale WHERE error IS NULL"
        return dict(self.sql.execute(query).fetchall())

    def clear_pending(self, users: Mapping[str, int]) -> None:
        """These have been computed; those that changed again meanwhile stay pending."""
        self.sql.executemany("DELETE FROM stale WHERE user_id = ? AND since_us = ?", users.items())

    def _in_parts(
        self, query: str, values: Iterable[str], mark: str, *more: Any
    ) -> Iterator[tuple[Any, ...]]:
        """The rows of a query with a list of values, its parameters after `more`."""
        distinct = sorted(set(values))
        for start in range(0, len(distinct), MAX_IDS_IN_QUERY):
            part = distinct[start : start + MAX_IDS_IN_QUERY]
            marks = ", ".join([mark] * len(part))
            yield from self.sql.execute(query.format(marks), [*more, *part])

    def _select_by(
        self,
        column: str,
        values: Iterable[str],
        select: str,
        suffix: str = "",
        table: str = "events",
    ) -> Iterator[tuple[Any, ...]]:
        query = f"SELECT {select} FROM {table} WHERE {column} IN ({{}}){suffix}"
        return self._in_parts(query, values, "?")


def to_arrow(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    """Events, in the order of `COLUMNS`, as an Arrow table of `COMPUTED_SCHEMA`."""
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    arrays = [
        pa.array(column, field.type)
        for column, field in zip(columns, COMPUTED_SCHEMA, strict=False)
    ]
    return pa.Table.from_arrays(arrays, schema=COMPUTED_SCHEMA)
