"""What was written to Redis, and when: the history that parity retrieves from.

Every row has two times: the event timestamp, which its values describe, and the created timestamp,
after which it was in Redis or being written. A reader may see a row from `created_us` on and sees
it from `written_us` on; between the two, either the row or its predecessor is right.
"""

import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from nextbuy.live.event_store import WORKED, LiveStore, now_us
from nextbuy.settings import Settings
from nextbuy.stores.loaded_tables import retain
from nextbuy.versioned_table import manifest

SHOPPER_COLUMNS = ("user_id",)
"""Columns of a recorded row that hold a shopper's id: the join keys of the shopper's views."""
OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")
MERGE_TIMES = "absorbed"
"""Meta value of the live store: when live events were merged, as JSON. The name is on disks."""


def begin_batch(store: LiveStore, tables: Mapping[str, pa.Table], created_us: int) -> int:
    """Record rows before Redis gets them; returns the number of the batch."""
    with store.transaction():
        batch = store.sql.execute(
            "INSERT INTO batches (created_us) VALUES (?)", [created_us]
        ).lastrowid
        assert batch is not None
        store.sql.executemany(
            "INSERT INTO rows VALUES (?, ?, ?)",
            ((batch, view, _serialized(rows)) for view, rows in tables.items()),
        )
    return batch


def end_batch(
    store: LiveStore, batch: int, written_us: int, pending: Mapping[str, int], sequence: int
) -> None:
    """Record that Redis has the batch's rows, those of the `pending` shoppers among them.

    `sequence` is the number of the last event that they are of.
    """
    with store.transaction():
        store.sql.execute("UPDATE batches SET written_us = ? WHERE batch = ?", [written_us, batch])
        store.clear_pending(pending)
        store.set_meta(WORKED, sequence)


def live_rows(store: LiveStore, view: str) -> Iterator[pa.Table]:
    """The recorded rows of a view, batch by batch, with `created_us` and `written_us`."""
    batches = store.sql.execute(
        "SELECT created_us, written_us, rows FROM batches JOIN rows USING (batch) WHERE view = ? "
        "ORDER BY batch",
        [view],
    )
    for created_us, written_us, serialized in batches:
        rows = pa.ipc.open_stream(serialized).read_all()
        for name, moment in (("created_us", created_us), ("written_us", written_us)):
            rows = rows.append_column(name, pa.array([moment] * len(rows), pa.int64()))
        yield rows


def prune(store: LiveStore, before_us: int) -> None:
    """Drop what parity needs for no prediction since `before_us`; called when live events merge.

    That is what later materializations had replaced by then: all loaded tables but the last of
    each view, and the live rows merged before the tables of that last load were built.
    """
    with store.transaction():
        views = {view for (view,) in store.sql.execute("SELECT DISTINCT view FROM materialized")}
        last = dict(
            store.sql.execute(
                "SELECT view, max(began_us) FROM materialized WHERE ended_us < ? GROUP BY view",
                [before_us],
            )
        )
        store.sql.executemany(
            "DELETE FROM materialized WHERE view = ? AND began_us < ?", last.items()
        )
        merged = [int(us) for us in json.loads(store.get_meta(MERGE_TIMES) or "[]")]
        if views and views == last.keys():
            replaced = max((us for us in merged if us < min(last.values())), default=0)
            of_rows = "SELECT batch FROM batches WHERE written_us < ?"
            store.sql.execute(f"DELETE FROM rows WHERE batch IN ({of_rows})", [replaced])
            store.sql.execute("DELETE FROM batches WHERE written_us < ?", [replaced])
            merged = [us for us in merged if us >= replaced]
        if last:
            store.set_meta("comparable_us", before_us)
        store.set_meta(MERGE_TIMES, json.dumps([*merged, now_us()]))
        store.sql.executemany("DELETE FROM shrunk WHERE view = ? AND began_us < ?", last.items())
        retained = {Path(f).name for (f,) in store.sql.execute("SELECT folder FROM materialized")}
    for folder in (store.path.parent / "materialized").glob("*"):
        if folder.name not in retained:
            shutil.rmtree(folder)


def rows_of(store: LiveStore, users: Collection[str], *, remove: bool) -> int:
    """The number of these shoppers' rows in the history; with `remove` they are gone afterwards."""
    (column,) = SHOPPER_COLUMNS
    changed, count = [], 0
    for batch, view, serialized in store.sql.execute("SELECT batch, view, rows FROM rows"):
        rows = pa.ipc.open_stream(serialized).read_all()
        named = pc.is_in(rows[column], pa.array(sorted(users), rows.schema.field(column).type))
        others = rows.filter(pc.invert(named))
        if len(others) < len(rows):
            changed.append((_serialized(others), batch, view))
            count += len(rows) - len(others)
    if remove:
        store.sql.executemany("UPDATE rows SET rows = ? WHERE batch = ? AND view = ?", changed)
    return count


def _serialized(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=OPTIONS) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


@contextmanager
def recorded_materialization(
    settings: Settings, view: str, newest_us: int
) -> Iterator[Callable[[int], None]]:
    """Record the table that the block loads into Redis, and when it did.

    Its files are retained by hard links, so a later build does not change them. The block calls
    what it is given with the number of rows that left Redis; an interrupted block may have removed
    some.
    """
    began, table = now_us(), settings.features / view
    published = manifest(table)
    assert published is not None, f"{table} was materialized"
    copy = retain(settings, view, table.resolve(), published)
    removed = 0

    def count(rows: int) -> None:
        nonlocal removed
        removed = rows

    with LiveStore(settings) as store:
        with store.transaction():
            store.sql.execute(
                "INSERT INTO materialized VALUES (?, ?, ?, ?, NULL)",
                [view, copy.name, newest_us, began],
            )
            store.sql.execute("INSERT INTO shrunk VALUES (?, ?)", [view, began])
        yield count
        with store.transaction():
            store.sql.execute(
                "UPDATE materialized SET ended_us = ? WHERE began_us = ?", [now_us(), began]
            )
            if not removed:
                store.sql.execute(
                    "DELETE FROM shrunk WHERE view = ? AND began_us = ?", [view, began]
                )


class LoadedVersion(NamedTuple):
    """A table as a materialization loaded it."""

    folder: Path
    newest_us: int
    """Rows up to this moment were loaded."""
    began_us: int
    ended_us: int | None
    """None: it was interrupted, or is at work."""


def loaded_versions(store: LiveStore, view: str) -> list[LoadedVersion]:
    """The recorded materializations of a view, in their order."""
    rows = store.sql.execute(
        "SELECT folder, newest_us, began_us, ended_us FROM materialized WHERE view = ? "
        "ORDER BY began_us",
        [view],
    ).fetchall()
    copies = store.path.parent / "materialized"  # a folder that moved has other paths recorded
    return [LoadedVersion(copies / Path(folder).name, *times) for folder, *times in rows]


def shrunk_at(store: LiveStore, view: str) -> list[int]:
    """When materializations began that removed rows of a view from Redis, or may have."""
    rows = store.sql.execute(
        "SELECT began_us FROM shrunk WHERE view = ? ORDER BY began_us", [view]
    ).fetchall()
    return [began for (began,) in rows]
