"""Backup of what cannot be built again from the logs, and its way back.

In: Feast's registry, MLflow's database and artifacts, the live events that were acknowledged, the
prediction log, and what Redis holds. Not in: tables that the verbs make from the logs (copy their
folders, published versions never change), and what an outside database holds, which has a backup
of its own.
"""

import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import redis

from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import running_redis
from nextbuy.versioned_table import lock

FILES = (Path("registry.db"),)
DATABASES = (Path("mlflow", "mlflow.db"), Path("live", "events.sqlite"))
FOLDERS = (Path("mlflow", "artifacts"), Path("predictions"), Path("runs"))
REDIS = Path("redis.parquet")
HOME = Path("home.txt")
"""Where the data folder was: MLflow writes its artifacts' absolute addresses down."""
KEYS = pa.schema([("key", pa.binary()), ("value", pa.binary()), ("expires_ms", pa.int64())])
PIECE = 5_000  # keys in one round trip

Progress = Callable[[str], None]


def backup(settings: Settings, file: Path, progress: Progress) -> list[str]:
    """Write one archive; the file appears whole or not at all.

    SQLite copies its own databases and Redis gives each key as it is at one moment, so nobody has
    to stop working meanwhile.

    Args:
        settings: where things are.
        file: the archive, `.tar.gz`; one that exists is replaced.
        progress: told of each part.

    Returns:
        what is in it, a line each.

    Raises:
        NextbuyError: there is nothing to keep, or Redis does not answer.
    """
    said = []
    with tempfile.TemporaryDirectory(dir=_scratch(settings)) as scratch:
        folder = Path(scratch)
        (folder / HOME).write_text(str(settings.data))
        for path in FILES:
            if (settings.data / path).exists():
                progress(str(path))
                shutil.copy2(settings.data / path, folder / path)
                said.append(f"{path}: {(folder / path).stat().st_size:,} bytes")
        for path in DATABASES:
            if (settings.data / path).exists():
                progress(str(path))
                _copy_database(settings.data / path, folder / path)
                said.append(f"{path}: {(folder / path).stat().st_size:,} bytes")
        for path in FOLDERS:
            if (settings.data / path).is_dir():
                progress(str(path))
                shutil.copytree(settings.data / path, folder / path)
                count = sum(found.is_file() for found in (folder / path).rglob("*"))
                said.append(f"{path}: {count:,} files")
        if settings.redis_url or settings.redis.is_dir():
            progress("Redis")
            said.append(f"Redis: {_save_redis(settings, folder / REDIS):,} keys")
        if not said:
            raise NextbuyError(f"{settings.data} holds nothing to keep yet. Begin: nextbuy demo")
        progress(str(file))
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_name(f".{file.name}.part")
        try:
            with tarfile.open(fresh, "w:gz", compresslevel=3) as archive:
                for found in sorted(folder.iterdir()):
                    archive.add(found, found.name)
            fresh.rename(file)
        finally:
            fresh.unlink(missing_ok=True)
    return said


def restore(settings: Settings, file: Path, progress: Progress, *, replace: bool) -> list[str]:
    """Bring an archive's content back; nothing is touched before all of it is unpacked.

    Args:
        settings: where things are; another folder than the archive's own is fine.
        file: what `backup` wrote.
        progress: told of each part.
        replace: whether what is there already may be replaced.

    Returns:
        what was brought back, a line each.

    Raises:
        NextbuyError: the file is no backup, something is there already, or Redis does not answer.
    """
    with (
        lock(settings.data / "daily.lock", "A daily run is at work"),
        tempfile.TemporaryDirectory(dir=_scratch(settings)) as scratch,
    ):
        folder = Path(scratch)
        progress(str(file))
        try:
            with tarfile.open(file) as archive:
                archive.extractall(folder, filter="data")
            home = Path((folder / HOME).read_text())
        except (OSError, tarfile.TarError, EOFError) as error:
            raise NextbuyError(f"{file} is no backup that can be read: {error}.") from error
        parts = [p for p in (*FILES, *DATABASES, *FOLDERS) if (folder / p).exists()]
        there = [str(path) for path in parts if (settings.data / path).exists()]
        if there and not replace:
            raise NextbuyError(
                f"{settings.data} holds {', '.join(there)} already. Restore into an empty "
                "NEXTBUY_DATA, or say --replace."
            )
        if (folder / DATABASES[0]).exists():
            _move_addresses(folder / DATABASES[0], home.as_uri(), settings.data.as_uri())
        said = []
        if (folder / REDIS).exists():
            progress("Redis")
            said.append(f"Redis: {_load_redis(settings, folder / REDIS):,} keys")
        for path in parts:
            progress(str(path))
            _put(folder / path, settings.data / path)
            said.append(str(path))
    return said


def _scratch(settings: Settings) -> Path:
    """On the same disk as the data: moving from there is one rename."""
    folder = settings.data / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _copy_database(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(source)) as old, closing(sqlite3.connect(target)) as new:
        old.backup(new)


def _put(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        shutil.rmtree(target)
    for beside in ("-wal", "-shm"):  # of the database that is replaced, not of the new one
        target.with_name(target.name + beside).unlink(missing_ok=True)
    source.rename(target)


def _move_addresses(database: Path, old: str, new: str) -> None:
    """Artifact addresses below the old data folder become addresses below the new one."""
    if old == new:
        return
    with closing(sqlite3.connect(database)) as sql, sql:
        tables = [
            name for (name,) in sql.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        ]
        for table in tables:
            for _, column, kind, *_ in sql.execute(f'PRAGMA table_info("{table}")').fetchall():
                if kind.upper().startswith(("VARCHAR", "TEXT")):
                    below = f"substr(\"{column}\", 1, length(?1) + 1) = ?1 || '/'"
                    sql.execute(
                        f'UPDATE "{table}" '
                        f'SET "{column}" = ?2 || substr("{column}", length(?1) + 1) '
                        f'WHERE "{column}" = ?1 OR {below}',
                        (old, new),
                    )


def _save_redis(settings: Settings, file: Path) -> int:
    """Every key with its value in Redis's own form and the moment it expires."""
    count = 0
    with running_redis(settings) as url, closing(redis.Redis.from_url(url)) as client:
        ((now_s, now_us),) = [client.time()]  # type: ignore[misc]
        now_ms = now_s * 1000 + now_us // 1000
        with pq.ParquetWriter(file, KEYS, compression="zstd") as writer:
            for keys in _pieces(client.scan_iter(count=PIECE)):
                pipe = client.pipeline(transaction=False)
                for key in keys:
                    pipe.dump(key)
                    pipe.pttl(key)
                found: list[Any] = pipe.execute()
                rows = [
                    (key, value, now_ms + left if left >= 0 else None)
                    for key, value, left in zip(keys, found[::2], found[1::2], strict=True)
                    if value is not None  # it expired on the way
                ]
                columns = list(zip(*rows, strict=True)) or [(), (), ()]
                writer.write_table(
                    pa.table(
                        [pa.array(c, f.type) for c, f in zip(columns, KEYS, strict=True)],
                        schema=KEYS,
                    )
                )
                count += len(rows)
    return count


def _load_redis(settings: Settings, file: Path) -> int:
    """Bring the keys back; those that expired meanwhile stay away. Other keys are left alone."""
    count = 0
    with running_redis(settings) as url, closing(redis.Redis.from_url(url)) as client:
        for batch in pq.ParquetFile(file).iter_batches(PIECE):
            pipe = client.pipeline(transaction=False)
            for row in batch.to_pylist():
                pipe.restore(
                    row["key"], row["expires_ms"] or 0, row["value"], replace=True,
                    absttl=row["expires_ms"] is not None,
                )  # fmt: skip
            count += len(pipe.execute())
    return count


def _pieces(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    piece: list[bytes] = []
    for key in keys:
        piece.append(key)
        if len(piece) == PIECE:
            yield piece
            piece = []
    if piece:
        yield piece
