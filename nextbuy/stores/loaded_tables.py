"""Which published tables a Redis was loaded from, and which of their rows a newer version lacks.

A table can lose rows: another log takes the place of the first, a shopper is erased, a day goes
away. What was loaded from it before is retained by hard links, below `live/materialized`; the rows
that left are the difference by key of the days that changed. Redis says which versions it may hold.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import redis
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL
from feast.infra.offline_stores.file_source import FileSource

from nextbuy.settings import Settings
from nextbuy.sql import identifier, literal, read_parquet
from nextbuy.stores.online.layout import TABLES, RedisLayout, loaded_key
from nextbuy.versioned_table import Manifest, manifest


@dataclass(frozen=True)
class LoadedTable:
    """A published table, as the source of a feature view."""

    folder: Path
    """Its present version."""
    manifest: Manifest
    keys: dict[str, str]
    """Join key -> column, in the order of their names."""
    timestamp: str

    @property
    def columns(self) -> list[str]:
        """The columns that identify a row and date it."""
        return [
            *(key for name, key in self.keys.items() if name != DUMMY_ENTITY_ID),
            self.timestamp,
        ]

    def latest(self, files: Sequence[Path]) -> str:
        """A query for each key's latest row in these files: join keys, and `us`, microseconds."""
        listed = [
            f"{literal(DUMMY_ENTITY_VAL)} AS {identifier(name)}"
            if name == DUMMY_ENTITY_ID
            else f"{identifier(column)} AS {identifier(name)}"
            for name, column in self.keys.items()
        ]
        known = " AND ".join(f"{identifier(column)} IS NOT NULL" for column in self.columns)
        relation = read_parquet(files) if files else f"(FROM {read_parquet(self.files())} LIMIT 0)"
        return (
            f"SELECT {', '.join(listed)}, "
            f"max(epoch_us({identifier(self.timestamp)}::TIMESTAMPTZ)) AS us "
            f"FROM {relation} WHERE {known} GROUP BY ALL"
        )

    def files(self, since: str = "") -> list[Path]:
        """The files of its days, from one day on; of an empty table the file with its columns."""
        if not self.manifest.days:
            return [self.folder / "day=none" / "part-0.parquet"]
        return [_file(self.folder, day) for day in self.manifest.days if day >= since]


def _file(folder: Path, day: str) -> Path:
    return folder / f"day={day}" / "part-0.parquet"


def loaded_table(
    source: DataSource | None, layout: RedisLayout, timestamp: str
) -> LoadedTable | None:
    """The published table that a source reads; None for any other source.

    Args:
        source: a view's batch source.
        layout: the view's.
        timestamp: the source's column of timestamps.
    """
    if not isinstance(source, FileSource) or "://" in source.path:
        return None
    folder = Path(source.path).resolve()
    published = manifest(folder) if folder.is_dir() else None
    if published is None:
        return None
    back = {new: old for old, new in (source.field_mapping or {}).items()}
    keys = {name: back.get(name, name) for name, _ in layout.join_keys}
    return LoadedTable(folder, published, keys, timestamp)


def retain(settings: Settings, view: str, folder: Path, published: Manifest) -> Path:
    """Retain a version of a table by hard links, so that a later build does not change it."""
    copy = _copies(settings) / f"{view}-{published.fingerprint}"
    if not copy.exists():
        temporary = copy.with_name(f".{copy.name}")
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(folder, temporary, copy_function=os.link)
        temporary.rename(copy)
    return copy


def _copies(settings: Settings) -> Path:
    return settings.live / "materialized"


class LoadRecord:
    """What one Redis says of the versions that a view was loaded from."""

    def __init__(self, client: redis.Redis, project: str, view: str) -> None:
        self._client: Any = client
        self._key, self._view = loaded_key(project), view

    def versions(self, settings: Settings) -> list[Path] | None:
        """Retained copies of all versions it may hold rows of; None if one is not retained here."""
        recorded = self._client.hget(self._key, self._view)
        if recorded is not None:
            copies = [_copies(settings) / name for name in recorded.decode().split()]
        elif self._client.hexists(TABLES, self._view):  # loaded before this record was kept
            copies = sorted(_copies(settings).glob(f"{self._view}-*"))
        else:
            return []
        return copies if all(copy.exists() for copy in copies) else None

    def add(self, copy: Path) -> None:
        """Record, before a load, that rows of this version may be in Redis too."""
        recorded = (self._client.hget(self._key, self._view) or b"").decode().split()
        self._client.hset(self._key, self._view, " ".join(dict.fromkeys([*recorded, copy.name])))

    def replace(self, copy: Path) -> None:
        """Record that what other versions had alone is in Redis no more."""
        self._client.hset(self._key, self._view, copy.name)


def rows_that_left(
    connection: duckdb.DuckDBPyConnection,
    table: LoadedTable,
    versions: Sequence[Path],
    kept: Callable[[], pa.Table | None],
) -> pa.Table:
    """Each key whose latest row in former versions is not in the table, nor is a later one.

    Args:
        connection: runs the query.
        table: what is published now.
        versions: copies of what was.
        kept: gives join keys and `us` of rows that are right though no table has them.

    Returns:
        the join keys, and `us`: when that row was (int64, microseconds since 1970).
    """
    files: dict[tuple[str, str], Path] = {}
    for folder in versions:
        former = manifest(folder)
        for day, digest in former.days.items() if former else ():
            if table.manifest.days.get(day) != digest:
                files.setdefault((day, digest), _file(folder, day))
    files = {
        key: file
        for key, file in files.items()
        if set(table.columns) <= set(pq.read_schema(file).names)
    }
    if not files:
        return connection.sql(f"{table.latest([])} LIMIT 0").to_arrow_table()
    # A row that takes the place of one of these days lies in that day or a later one.
    since = table.files(min(day for day, _ in files)) if table.manifest.days else []
    names = ", ".join(map(identifier, table.keys))
    left = connection.sql(
        f"SELECT {names}, former.us FROM ({table.latest([*files.values()])}) AS former "
        f"LEFT JOIN ({table.latest(since)}) AS now USING ({names}) "
        "WHERE now.us IS NULL OR now.us < former.us"
    ).to_arrow_table()
    if left.num_rows and (spared := kept()) is not None:
        connection.register("rows_left", left)
        connection.register("rows_spared", spared)
        left = connection.sql(
            f"FROM rows_left ANTI JOIN rows_spared USING ({names}, us)"
        ).to_arrow_table()
    return left
