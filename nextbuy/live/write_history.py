"""What was written to Redis, and when: the record that parity retrieves from.

Every row has two times: the event timestamp, of which it tells, and the created timestamp, from
which on it was in Redis or on its way there. A row may be seen from `created_timestamp` on and is
seen from `written_us` on; in between either it or its predecessor is right.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from nextbuy.live.event_store import LiveStore, now_us
from nextbuy.settings import Settings
from nextbuy.versioned_table import manifest

OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")


def begin_batch(store: LiveStore, tables: Mapping[str, pa.Table], created_us: int) -> int:
    """Record rows before Redis gets them; returns the number of the batch."""
    with store.transaction():
        made = store.sql.execute("INSERT INTO batches (created_us) VALUES (?)", [created_us])
        store.sql.executemany(
            "INSERT INTO rows VALUES (?, ?, ?)",
            ((made.lastrowid, view, _packed(rows)) for view, rows in tables.items()),
        )
    assert made.lastrowid is not None
    return made.lastrowid


def end_batch(store: LiveStore, batch: int, written_us: int, settled: dict[str, int]) -> None:
    """Record that Redis has the batch's rows, those of the stale shoppers `settled` among them."""
    with store.transaction():
        store.sql.execute("UPDATE batches SET written_us = ? WHERE batch = ?", [written_us, batch])
        store.settle(settled)


def live_rows(store: LiveStore, view: str) -> Iterator[pa.Table]:
    """The recorded rows of a view, batch by batch, with `created_us` and `written_us`."""
    found = store.sql.execute(
        "SELECT created_us, written_us, rows FROM batches JOIN rows USING (batch) WHERE view = ? "
        "ORDER BY batch",
        [view],
    )
    for created_us, written_us, packed in found:
        rows = pa.ipc.open_stream(packed).read_all()
        for name, moment in (("created_us", created_us), ("written_us", written_us)):
            rows = rows.append_column(name, pa.array([moment] * len(rows), pa.int64()))
        yield rows


def prune(store: LiveStore, before_us: int) -> None:
    """Drop what parity needs for no prediction since `before_us`; called when absorbing.

    That is what later materializations had replaced by then: of the loaded tables all but the last
    of each view, and of the live rows those absorbed before the tables were built that it loaded.
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
        absorbed = [int(us) for us in json.loads(store.note("absorbed") or "[]")]
        if views and views == last.keys():
            replaced = max((us for us in absorbed if us < min(last.values())), default=0)
            of_rows = "SELECT batch FROM batches WHERE written_us < ?"
            store.sql.execute(f"DELETE FROM rows WHERE batch IN ({of_rows})", [replaced])
            store.sql.execute("DELETE FROM batches WHERE written_us < ?", [replaced])
            absorbed = [us for us in absorbed if us >= replaced]
        if last:
            store.keep("comparable_us", before_us)
        store.keep("absorbed", json.dumps([*absorbed, now_us()]))
        kept = {Path(f) for (f,) in store.sql.execute("SELECT folder FROM materialized")}
    for folder in (store.path.parent / "materialized").glob("*"):
        if folder not in kept:
            shutil.rmtree(folder)


def forget_rows(store: LiveStore, user: str, remove: bool = True) -> int:
    """Remove a shopper's rows from the record, or only count them."""
    changed, count = [], 0
    for batch, view, packed in store.sql.execute("SELECT batch, view, rows FROM rows"):
        rows = pa.ipc.open_stream(packed).read_all()
        kept = rows.filter(pc.not_equal(rows["user_id"], user))
        if len(kept) < len(rows):
            changed.append((_packed(kept), batch, view))
            count += len(rows) - len(kept)
    if remove:
        with store.transaction():
            store.sql.executemany("UPDATE rows SET rows = ? WHERE batch = ? AND view = ?", changed)
    return count


def _packed(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema, options=OPTIONS) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


@contextmanager
def recorded_materialization(settings: Settings, view: str, newest_us: int) -> Iterator[None]:
    """Keep the table that the block loads into Redis, and when it did.

    The files are kept by hard links: what is built anew later does not change them.
    """
    began = now_us()
    with LiveStore(settings) as store:
        with store.transaction():
            store.sql.execute(
                "INSERT INTO materialized VALUES (?, ?, ?, ?, NULL)",
                [view, str(_kept(settings, view)), newest_us, began],
            )
        yield
        with store.transaction():
            store.sql.execute(
                "UPDATE materialized SET ended_us = ? WHERE began_us = ?", [now_us(), began]
            )


def _kept(settings: Settings, view: str) -> Path:
    table = settings.features / view
    found = manifest(table)
    assert found is not None, f"{table} was materialized"
    folder = settings.live / "materialized" / f"{view}-{found.fingerprint}"
    if not folder.exists():
        aside = folder.with_name(f".{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(table.resolve(), aside, copy_function=os.link)
        aside.rename(folder)
    return folder
