"""Backup and restore of what cannot be built again from the logs.

Included: Feast's registry, MLflow's database and artifacts, the acknowledged live events, the
prediction log, and the keys of Redis. Not included: tables that the verbs build from the logs
(copy their folders, published versions never change), and external databases, which have backups
of their own.
"""

import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import redis

from nextbuy.atomic import replacing
from nextbuy.errors import NextbuyError
from nextbuy.models.artifact_addresses import DATABASE, follow
from nextbuy.settings import Settings
from nextbuy.shop import SHOP_FILE, shop_record
from nextbuy.stores.online.redis_server import running_redis

FILES = (Path("registry.db"), Path(SHOP_FILE))
DATABASES = (DATABASE, Path("live", "events.sqlite"))
FOLDERS = (Path("mlflow", "artifacts"), Path("predictions"), Path("runs"))
REDIS = Path("redis.parquet")
HOME = Path("home.txt")
"""Names the archived data folder; every archive has it."""
KEYS = pa.schema([("key", pa.binary()), ("value", pa.binary()), ("expires_ms", pa.int64())])
BATCH_KEYS = 5_000  # in one round trip

Progress = Callable[[str], None]


def backup(settings: Settings, file: Path, progress: Progress) -> list[str]:
    """Write one archive; the file is complete or not there.

    SQLite copies its own databases and Redis dumps each key as it is at one moment, so nothing
    needs to be stopped.

    Args:
        settings: where things are.
        file: the archive, `.tar.gz`; an existing one is replaced.
        progress: called with the name of each part.

    Returns:
        one line for each part of the archive.

    Raises:
        NextbuyError: there is nothing to archive, or Redis does not answer.
    """
    parts = []
    with tempfile.TemporaryDirectory(dir=_scratch(settings)) as scratch:
        folder = Path(scratch)
        (folder / HOME).write_text(str(settings.data))
        for path in FILES:
            if (settings.data / path).exists():
                progress(str(path))
                shutil.copy2(settings.data / path, folder / path)
                parts.append(f"{path}: {(folder / path).stat().st_size:,} bytes")
        for path in DATABASES:
            if (settings.data / path).exists():
                progress(str(path))
                _copy_database(settings.data / path, folder / path)
                parts.append(f"{path}: {(folder / path).stat().st_size:,} bytes")
        for path in FOLDERS:
            if (settings.data / path).is_dir():
                progress(str(path))
                shutil.copytree(settings.data / path, folder / path)
                count = sum(inner.is_file() for inner in (folder / path).rglob("*"))
                parts.append(f"{path}: {count:,} files")
        if settings.redis_url or settings.redis.is_dir():
            progress("Redis")
            parts.append(f"Redis: {_save_redis(settings, folder / REDIS):,} keys")
        if not parts:
            raise NextbuyError(f"{settings.data} has nothing to back up yet. Begin: nextbuy demo")
        progress(str(file))
        with (
            replacing(file, durable=True) as temporary,
            tarfile.open(temporary, "w:gz", compresslevel=3) as archive,
        ):
            for path in sorted(folder.iterdir()):
                archive.add(path, path.name)
    return parts


def restore(settings: Settings, file: Path, progress: Progress, *, replace: bool) -> list[str]:
    """Restore an archive; nothing is changed before all of it is unpacked.

    Args:
        settings: where things are; the data folder may be another than the archived one.
        file: what `backup` wrote.
        progress: called with the name of each part.
        replace: whether existing data may be replaced.

    Returns:
        one line for each restored part.

    Raises:
        NextbuyError: the file is no backup, the data folder has such data already, or Redis does
            not answer.
    """
    with tempfile.TemporaryDirectory(dir=_scratch(settings)) as scratch:
        folder = Path(scratch)
        progress(str(file))
        try:
            with tarfile.open(file) as archive:
                archive.extractall(folder, filter="data")
            (folder / HOME).read_text()
        except (OSError, tarfile.TarError, EOFError) as error:
            raise NextbuyError(f"{file} is no backup that can be read: {error}.") from error
        parts = [p for p in (*FILES, *DATABASES, *FOLDERS) if (folder / p).exists()]
        existing = [str(path) for path in parts if (settings.data / path).exists()]
        if existing and not replace and not _only_marked(settings, existing):
            raise NextbuyError(
                f"{settings.data} already has {', '.join(existing)}. Restore into an empty "
                "NEXTBUY_DATA, or use --replace."
            )
        restored = []
        if (folder / REDIS).exists():
            progress("Redis")
            restored.append(f"Redis: {_load_redis(settings, folder / REDIS):,} keys")
        for path in parts:
            progress(str(path))
            _put(folder / path, settings.data / path)
            restored.append(str(path))
        follow(settings.data)
    return restored


def _only_marked(settings: Settings, existing: list[str]) -> bool:
    """Whether the one thing there is a record without settings, which every verb leaves."""
    record = shop_record(settings) if existing == [SHOP_FILE] else None
    return record is not None and record.settings is None


def _scratch(settings: Settings) -> Path:
    """A folder on the same disk as the data, so that moving from there is one rename."""
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
    for suffix in ("-wal", "-shm"):  # of the database that is replaced, not of the new one
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    source.rename(target)


def _save_redis(settings: Settings, file: Path) -> int:
    """Save every key with its dumped value and its time of expiry; returns their number."""
    count = 0
    with running_redis(settings) as url, closing(redis.Redis.from_url(url)) as client:
        ((now_s, now_us),) = [client.time()]  # type: ignore[misc]
        now_ms = now_s * 1000 + now_us // 1000
        keys = client.scan_iter(count=BATCH_KEYS)
        with pq.ParquetWriter(file, KEYS, compression="zstd") as writer:
            while batch := list(islice(keys, BATCH_KEYS)):
                pipe = client.pipeline(transaction=False)
                for key in batch:
                    pipe.dump(key)
                    pipe.pttl(key)
                replies: list[Any] = pipe.execute()
                rows = [
                    {"key": key, "value": value, "expires_ms": now_ms + ttl if ttl >= 0 else None}
                    for key, value, ttl in zip(batch, replies[::2], replies[1::2], strict=True)
                    if value is not None  # expired since it was listed
                ]
                writer.write_table(pa.Table.from_pylist(rows, schema=KEYS))
                count += len(rows)
    return count


def _load_redis(settings: Settings, file: Path) -> int:
    """Restore the keys; expired ones are dropped, other keys are left alone."""
    count = 0
    with running_redis(settings) as url, closing(redis.Redis.from_url(url)) as client:
        for batch in pq.ParquetFile(file).iter_batches(BATCH_KEYS):
            pipe = client.pipeline(transaction=False)
            for row in batch.to_pylist():
                pipe.restore(
                    row["key"], row["expires_ms"] or 0, row["value"], replace=True,
                    absttl=row["expires_ms"] is not None,
                )  # fmt: skip
            count += len(pipe.execute())
    return count
