"""Day-partitioned Parquet that changes as a whole or not at all.

A published table is a symbolic link to a version folder:

    data/events            -> .versions/events-2
    data/.versions/events-2/manifest.json
    data/.versions/events-2/day=2024-01-01/part-0.parquet

A writer stages a version: it fills a new folder (unchanged days are hard links into the last
one). Publishing it swaps the link in one atomic rename. A crash before that leaves the last good
version in place, and the next writer removes the leftover folder. Readers follow the link.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from nextbuy.errors import NextbuyError
from nextbuy.sql import read_parquet

ROW_GROUP = 122_880  # DuckDB's own vector-aligned default, written down so that files stay equal


class Manifest(BaseModel):
    """What a version holds and what it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: str
    """Fingerprint of everything the version was made from; equal inputs, nothing to do."""
    days: dict[str, str]
    """Day (ISO) -> digest of its file."""
    rows: int
    info: dict[str, Any] = {}
    """What later stages need to know of this table."""
    definition: str = ""
    """Fingerprint of how it is made; with equal ones, an increment goes on from this version."""
    made_from: dict[str, str] = {}
    """The days of the table it was made from, as they were then."""

    @property
    def fingerprint(self) -> str:
        """Identifies the content, however it came about."""
        return fingerprint(self.days, self.info)


def fingerprint(*parts: object) -> str:
    """Digest of anything JSON can write; folders and files stand for their bytes.

    >>> fingerprint("a", 1) == fingerprint("a", 1)
    True
    """
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        if isinstance(part, Path):
            files = sorted(part.rglob("*.py")) if part.is_dir() else [part]
            for file in files:
                digest.update(file_digest(file).encode())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
        digest.update(b"\0")
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """MD5 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def manifest(table: Path) -> Manifest | None:
    """The published version's manifest, or None where nothing was published yet."""
    try:
        return Manifest.model_validate_json((table / "manifest.json").read_text())
    except FileNotFoundError:
        return None


def require(table: Path, command: str) -> Manifest:
    """The manifest of a table that must be there; names the command that makes it."""
    published = manifest(table)
    if published is None:
        raise NextbuyError(f"{table} is not there yet. Make it with: {command}")
    return published


def files(table: Path) -> str:
    """The glob a DuckDB reader takes for a published table.

    It names the version of this moment: a query that began before a swap goes on reading its own.
    """
    return f"{table.resolve()}/*/*.parquet"


def read_days(table: Path, days: Collection[str]) -> str:
    """Some days of a published table as a DuckDB relation; of no days, an empty one."""
    if not days:
        return f"(SELECT * FROM {read_parquet(files(table))} LIMIT 0)"
    folder = table.resolve()
    return read_parquet(folder / f"day={day}" / "part-0.parquet" for day in sorted(days))


def version_of(table: Path, days: Mapping[str, str]) -> tuple[Path, Manifest] | None:
    """The version of `table` that holds exactly these days, if it is still there."""
    for folder in (table.parent / ".versions").glob(f"{table.name}-*"):
        version = manifest(folder)
        if version is not None and version.days == days:
            return folder, version
    return None


class Version:
    """A staged version: its days are added or kept, then published together.

    Made by `staged_version`.
    """

    def __init__(self, table: Path, folder: Path, origin: Mapping[str, Any]) -> None:
        self.table = table
        self.published = manifest(table)
        """The version before this one."""
        self.folder = folder
        self.kept: dict[str, str] = {}
        """Day -> digest of its file, known without reading it."""
        self.info: dict[str, Any] = dict(origin["info"])
        """Goes into the manifest; may be added to until the version is published."""
        self._origin = origin

    @property
    def is_published(self) -> bool:
        """Whether the table's link points to this version."""
        return self.table.resolve() == self.folder.resolve()

    def publish(self) -> Manifest:
        """Write the manifest and let the table be this version.

        All of it is on the disk before the link points to it: one `os.sync()` costs less than one
        call per file. The version before stays for readers that have it open; the next writer
        removes it.
        """
        days, rows = {}, 0
        for path in sorted(self.folder.glob("day=[0-9]*/part-0.parquet")):
            day = path.parent.name.removeprefix("day=")
            days[day] = self.kept.get(day) or file_digest(path)
            rows += pq.read_metadata(path).num_rows
        written = Manifest(days=days, rows=rows, **{**self._origin, "info": self.info})
        (self.folder / "manifest.json").write_text(written.model_dump_json(indent=1))
        os.sync()
        swap = self.folder.with_name(f"{self.table.name}.swap")
        swap.unlink(missing_ok=True)
        swap.symlink_to(os.path.relpath(self.folder, self.table.parent))
        swap.rename(self.table)
        return written

    def file(self, day: date | str) -> Path:
        """Where the rows of `day` belong."""
        path = self.folder / f"day={day}" / "part-0.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def keep(self, day: date | str) -> None:
        """Take a day over from the published version, unread and uncopied."""
        assert self.published is not None, f"nothing of {self.table} is published to be kept"
        self.kept[str(day)] = self.published.days[str(day)]
        os.link(self.table / f"day={day}" / "part-0.parquet", self.file(day))

    def written(self) -> list[Path]:
        """The files of the days that are new in this version, in order."""
        files = sorted(self.folder.glob("day=*/part-0.parquet"))
        return [file for file in files if file.parent.name[4:] not in self.kept]

    def write_days(
        self, connection: duckdb.DuckDBPyConnection, table: str, day: str, order_by: Sequence[str]
    ) -> None:
        """Write each day of the DuckDB table `table` to its file.

        `day` is the SQL expression that gives a row's day; it is not stored. `order_by` must be a
        total order: then the bytes do not depend on the number of threads. One sort for all days
        and one open file at a time, however many days there are. Without any day an empty file is
        written, so that a reader finds the columns.
        """
        rows = connection.sql(
            f"SELECT *, CAST({day} AS DATE) AS {_DAY} FROM {table} "
            f"ORDER BY {_DAY}, {', '.join(order_by)}"
        ).to_arrow_reader(ROW_GROUP)
        today: date | None = None
        writer: pq.ParquetWriter | None = None
        try:
            for day_of, chunk in _by_day(rows):
                if writer is None or day_of != today:
                    if writer is not None:
                        writer.close()
                    today = day_of
                    writer = pq.ParquetWriter(self.file(today), chunk.schema, compression="zstd")
                writer.write_table(chunk, ROW_GROUP)
        finally:
            if writer is not None:
                writer.close()
        if writer is None and not self.kept:
            columns = [field for field in rows.schema if field.name != _DAY]
            path = self.folder / "day=none" / "part-0.parquet"
            path.parent.mkdir()
            pq.write_table(pa.schema(columns).empty_table(), path)


_DAY = "partition_day"


def _by_day(rows: pa.RecordBatchReader) -> Iterator[tuple[Any, pa.Table]]:
    """Chunks of one day each, full row groups but for a day's last: equal input, equal bytes."""
    held: list[pa.Table] = []
    today: date | None = None
    for batch in rows:
        table = pa.Table.from_batches([batch])
        runs = pc.run_end_encode(table.column(_DAY).combine_chunks())
        table = table.drop_columns([_DAY])
        start = 0
        for day, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            if held and day != today:
                yield today, pa.concat_tables(held)
                held = []
            today = day
            held.append(table.slice(start, end - start))
            start = end
            while sum(piece.num_rows for piece in held) >= ROW_GROUP:
                whole = pa.concat_tables(held)
                yield today, whole.slice(0, ROW_GROUP)
                rest = whole.slice(ROW_GROUP)
                held = [rest] if rest.num_rows else []
    if held:
        yield today, pa.concat_tables(held)


@contextmanager
def staged_version(
    table: Path,
    inputs: str,
    info: dict[str, Any] | None = None,
    *,
    definition: str = "",
    made_from: dict[str, str] | None = None,
) -> Iterator[Version]:
    """The next version of `table`, to be written and published; else it is gone after the block.

    The arguments go into its manifest.

    Raises:
        NextbuyError: another process is writing the same table.
    """
    versions = table.parent / ".versions"
    versions.mkdir(parents=True, exist_ok=True)
    with lock(versions / f"{table.name}.lock", f"{table} is being written by another run"):
        current = table.resolve().name if table.is_symlink() else None
        _sweep(versions, table.name, current)
        number = int(current.rsplit("-", 1)[1]) + 1 if current else 1
        folder = versions / f"{table.name}-{number}"
        folder.mkdir()
        origin = {
            "inputs": inputs,
            "info": info or {},
            "definition": definition,
            "made_from": made_from or {},
        }
        version = Version(table, folder, origin)
        try:
            yield version
        finally:
            if not version.is_published:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def new_version(table: Path, inputs: str, info: dict[str, Any] | None = None) -> Iterator[Version]:
    """As `staged_version`, published when the block ends without an error."""
    with staged_version(table, inputs, info) as version:
        yield version
        version.publish()


@contextmanager
def lock(path: Path, busy: str) -> Iterator[None]:
    """Hold an exclusive lock that the kernel releases even after kill -9."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NextbuyError(f"{busy}. Wait for it to end and try again.") from None
        yield


@contextmanager
def workplace(folder: Path, busy: str) -> Iterator[Path]:
    """An empty folder for this run alone; what a killed run left in it is removed.

    Raises:
        NextbuyError: another run holds it; `busy` says so.
    """
    with lock(folder.with_suffix(".lock"), busy):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _sweep(versions: Path, name: str, current: str | None) -> None:
    for folder in versions.glob(f"{name}-*"):
        number = folder.name.removeprefix(f"{name}-")
        if number.isdigit() and folder.name != current:
            shutil.rmtree(folder)
