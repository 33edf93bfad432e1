"""The rows of shoppers in the live store, and in the bytes of its files."""

import mmap
from collections.abc import Collection, Iterator
from pathlib import Path

from nextbuy.errors import NextbuyError
from nextbuy.live import write_history
from nextbuy.live.event_store import ERASURES, LiveStore
from nextbuy.live.store_schema import SHOPPER_COLUMNS
from nextbuy.maintenance.erase_files import RowCounts
from nextbuy.settings import Settings
from nextbuy.sql import identifier

MIN_BYTES = 6
"""Of an id that is looked for in the bytes of a file."""


def rows_in(settings: Settings, ids: Collection[str], *, remove: bool) -> RowCounts:
    """The shoppers' rows in the live store; with `remove` they are gone, and overwritten.

    Raises:
        NextbuyError: a row of another shopper would be gone as well; nothing is changed.
    """
    with LiveStore(settings) as store:
        if not remove:
            return RowCounts(_rows(store, ids, remove=False))
        with store.transaction():
            count = _rows(store, ids, remove=True)
            erasures = int(store.get_meta(ERASURES) or 0)
            store.set_meta(ERASURES, erasures + 1)  # makes the live worker start again
        store.compact()
    return RowCounts(count)


def _rows(store: LiveStore, ids: Collection[str], *, remove: bool) -> int:
    users, count = sorted(ids), 0
    marks = ", ".join("?" * len(users))
    for table, column in SHOPPER_COLUMNS.items():
        theirs = f"FROM {table} WHERE {column} IN ({marks})"
        rows = int(store.sql.execute(f"SELECT count(*) {theirs}", users).fetchone()[0])
        count += rows
        if rows and remove:
            before = _size(store, table)
            store.sql.execute(f"DELETE {theirs}", users)
            if (lost := before - rows - _size(store, table)) != 0:
                raise NextbuyError(
                    f"{store.path} was left as it is: {lost:,} rows of others would be gone from "
                    f"{table}. This is a fault of Nextbuy; please report it."
                )
    return count + write_history.rows_of(store, users, remove=remove)


def _size(store: LiveStore, table: str) -> int:
    return int(store.sql.execute(f"SELECT count(*) FROM {table}").fetchone()[0])


def traces(settings: Settings, ids: Collection[str]) -> Iterator[str]:
    """Files of the live store that may hold the bytes of rows that are gone.

    Deleted content is overwritten and the write-ahead log emptied, unless another process reads
    it meanwhile. An id is then looked for in the bytes, if no text of the store contains it; one
    of a few bytes would be there by chance.
    """
    path = settings.live / "events.sqlite"
    if not path.exists():
        return
    with LiveStore(settings) as store:
        is_busy, *_ = store.sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if is_busy:
            yield f"{path}-wal, which another process reads"
        unexplained = [
            user
            for user in ids
            if len(user.encode()) >= MIN_BYTES and not _is_within_a_text(store, user)
        ]
        for file in sorted(path.parent.glob(f"{path.name}*")):
            if any(_holds(file, user.encode()) for user in unexplained):
                yield str(file)


def _is_within_a_text(store: LiveStore, user: str) -> bool:
    tables = store.sql.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
    for (table,) in [*tables, ("sqlite_schema",)]:
        for _, column, dtype, *_ in store.sql.execute(f"PRAGMA table_info({identifier(table)})"):
            if dtype == "TEXT":
                query = f"SELECT 1 FROM {identifier(table)} WHERE instr({identifier(column)}, ?)"
                if store.sql.execute(f"{query} LIMIT 1", [user]).fetchone():
                    return True
    return False


def _holds(file: Path, raw: bytes) -> bool:
    if not file.exists() or not file.stat().st_size:
        return False
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(raw) != -1
