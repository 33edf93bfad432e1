"""Day-partitioned Parquet that changes as a whole or not at all.

A published table is a symbolic link to a version folder:

    data/events            -> .versions/events-2
    data/.versions/events-2/manifest.json
    data/.versions/events-2/day=2024-01-01/part-0.parquet

A writer fills a new version folder (unchanged days are hard links into the last one) and then
swaps the link in one atomic rename. A crash before the swap leaves the last good version in
place; the leftover folder is swept by the next writer. Readers follow the link.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from nextbuy.errors import NextbuyError

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
    found = manifest(table)
    if found is None:
        raise NextbuyError(f"{table} is not there yet. Make it with: {command}")
    return found


def files(table: Path) -> str:
    """The glob a DuckDB reader takes for a published table."""
    return f"{table}/*/*.parquet"


class Version:
    """A version being written: days are added or kept, then published together."""

    def __init__(self, table: Path, folder: Path) -> None:
        self._table = table
        self.folder = folder

    def file(self, day: date | str) -> Path:
        """Where the rows of `day` belong."""
        path = self.folder / f"day={day}" / "part-0.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def keep(self, day: date | str) -> None:
        """Take a day over from the published version, unread and uncopied."""
        path = self.file(day)
        os.link(self._table / f"day={day}" / "part-0.parquet", path)

    def write_days(
        self, engine: duckdb.DuckDBPyConnection, table: str, day: str, order_by: Sequence[str]
    ) -> None:
        """Write each day of the DuckDB table `table` to its file.

        `day` is the SQL expression that gives a row's day; it is not stored. `order_by` must be a
        total order: then the bytes do not depend on the number of threads.
        """
        days = engine.execute(
            f"SELECT DISTINCT CAST({day} AS DATE) AS d FROM {table} ORDER BY d"
        ).fetchall()
        for (value,) in days:
            engine.execute(
                f"COPY (SELECT * FROM {table} WHERE CAST({day} AS DATE) = DATE '{value}' "
                f"ORDER BY {', '.join(order_by)}) TO '{self.file(value)}' "
                f"(FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
            )


@contextmanager
def new_version(table: Path, inputs: str, info: dict[str, Any] | None = None) -> Iterator[Version]:
    """Write the next version of `table`; publish it when the block ends without an error.

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
        try:
            version = Version(table, folder)
            yield version
            _finish(version, inputs, info or {})
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        swap = versions / f"{table.name}.swap"
        swap.unlink(missing_ok=True)
        swap.symlink_to(os.path.relpath(folder, table.parent))
        swap.rename(table)
        # The version before stays for readers that have it open; the next writer sweeps it.


@contextmanager
def lock(path: Path, busy: str) -> Iterator[None]:
    """Hold an exclusive lock that the kernel gives back even after kill -9."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NextbuyError(f"{busy}. Wait for it to end and try again.") from None
        yield


def _sweep(versions: Path, name: str, current: str | None) -> None:
    for folder in versions.glob(f"{name}-*"):
        number = folder.name.removeprefix(f"{name}-")
        if number.isdigit() and folder.name != current:
            shutil.rmtree(folder)


def _finish(version: Version, inputs: str, info: dict[str, Any]) -> None:
    days, rows = {}, 0
    for path in sorted(version.folder.glob("day=*/part-0.parquet")):
        days[path.parent.name.removeprefix("day=")] = file_digest(path)
        rows += pq.read_metadata(path).num_rows
        with path.open("rb") as file:
            os.fsync(file.fileno())
    content = Manifest(inputs=inputs, days=days, rows=rows, info=info)
    (version.folder / "manifest.json").write_text(content.model_dump_json(indent=1))
