"""Erasure: removes a person's rows from every file and store, then searches for what is left.

Every Parquet file below the data folder is searched, whatever table and version it belongs to, so
that tables of later stages are covered too. A row is removed when one of its texts is the person's
id or, as the raw text of a refused row, contains it. The live store overwrites what it deletes;
the person's keys are removed from Redis.

Sums over many people (an item's views, a fitted model) do not name the person. The tables lose
their share when they are built again: `nextbuy sessionize` and the verbs after it.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis
from numpy.typing import NDArray

from nextbuy.atomic import replacing, write_text
from nextbuy.errors import NextbuyError
from nextbuy.live.event_store import ERASURES, LiveStore
from nextbuy.live.sync import copy_lock
from nextbuy.live.write_history import forget_rows
from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import running_redis
from nextbuy.versioned_table import ROW_GROUP, Manifest, file_digest, lock

TEXT_LIST = pa.list_(pa.string())
SCAN_KEYS = 1000  # Redis keys in one round trip


@dataclass
class ErasureReport:
    """What was removed, and what a search found afterwards."""

    removed: dict[str, int] = field(default_factory=dict)
    """Place -> rows (Redis: keys)."""
    searched: int = 0
    """Files and Redis keys that were searched afterwards."""
    left: list[str] = field(default_factory=list)
    """Where the id still is; empty proves the erasure."""

    def count(self, place: str, removed: int) -> None:
        """Add to what was removed from a place."""
        if removed:
            self.removed[place] = self.removed.get(place, 0) + removed

    def __str__(self) -> str:
        lines = [f"{place:<14} {count:>9,} removed" for place, count in self.removed.items()]
        result = f"still in {', '.join(self.left)}" if self.left else "the id is in none of them"
        return "\n".join(
            [
                *(lines or ["nothing to remove"]),
                f"searched {self.searched:,} files and keys: {result}",
            ]
        )


def forget(settings: Settings, user: str) -> ErasureReport:
    """Remove a shopper everywhere below the data folder and from Redis.

    Safe to repeat; a crash leaves each file either as it was or without the person.

    Raises:
        NextbuyError: the id is empty, another run writes the tables, or Redis is out of reach.
    """
    if not user.strip():
        raise NextbuyError("Name the shopper to forget: nextbuy forget USER")
    report = ErasureReport()
    busy = f"Another run works on {settings.data}"
    with (
        lock(settings.data / "tmp" / "ingest.lock", busy),
        copy_lock(settings),
        running_redis(settings) as url,
        redis.Redis.from_url(url) as client,
    ):
        report.count("live", _erase_live(settings, user))
        report.count("Redis", _erase_redis(client, user))
        report.count("reports", _erase_reports(settings, user))
        for file in sorted(_files(settings, "*.parquet")):
            report.count(_place(settings, file), _erase_parquet(file, user))
        _search(settings, client, user, report)
    return report


def _files(settings: Settings, pattern: str) -> Iterator[Path]:
    """Real files: a published table is reached through its versions, not through its link."""
    for folder, _, names in os.walk(settings.data, followlinks=False):
        yield from (p for name in names if (p := Path(folder) / name).match(pattern))


def _place(settings: Settings, file: Path) -> str:
    parts = file.relative_to(settings.data).parts
    if ".versions" in parts:  # data/.versions/events-2/..., data/features/.versions/user-3/...
        return parts[parts.index(".versions") + 1].rsplit("-", 1)[0]
    return parts[0]


def _word(user: str) -> str:
    """Pattern of the id on its own, not within a longer one."""
    return rf"(^|[^\w-]){re.escape(user)}($|[^\w-])"


def _erase_parquet(file: Path, user: str) -> int:
    is_named = _named_rows(file, user)
    count = int(is_named.sum())
    if count:
        others = pq.ParquetFile(file).read().filter(pa.array(~is_named))
        with replacing(file, durable=True) as temporary:
            pq.write_table(others, temporary, compression="zstd", row_group_size=ROW_GROUP)
        _update_manifest(file, count)
    return count


def _named_rows(file: Path, user: str) -> NDArray[np.bool_]:
    """One flag for each row of a Parquet file: whether one of its texts names the person."""
    parquet = pq.ParquetFile(file)
    types = {field.name: field.type for field in parquet.schema_arrow}
    texts = [name for name, dtype in types.items() if dtype in (pa.string(), TEXT_LIST)]
    is_named = np.zeros(parquet.metadata.num_rows, np.bool_)
    if not texts:
        return is_named
    for name, column in zip(texts, parquet.read(columns=texts).columns, strict=True):
        array = column.combine_chunks()
        if types[name] == TEXT_LIST:
            rows = np.asarray(pc.list_parent_indices(array))
            is_named[rows[_mentions(pc.list_flatten(array), user)]] = True
        else:
            is_named |= _mentions(array, user)
    return is_named


def _mentions(texts: pa.Array, user: str) -> NDArray[np.bool_]:
    matches = pc.fill_null(pc.match_substring(texts, user), False)  # far faster than a pattern
    if pc.any(matches).as_py():
        matches = pc.fill_null(pc.match_substring_regex(texts, _word(user)), False)
    return np.asarray(matches)


def _update_manifest(file: Path, removed: int) -> None:
    """Give the version the file's new digest, so that tables made from it are out of date."""
    path = file.parents[1] / "manifest.json"
    if not path.exists():
        return
    old = Manifest.model_validate_json(path.read_text())
    day = file.parent.name.removeprefix("day=")
    new = old.model_copy(
        update={"days": old.days | {day: file_digest(file)}, "rows": old.rows - removed}
    )
    write_text(path, new.model_dump_json(indent=1), durable=True)


def _erase_live(settings: Settings, user: str) -> int:
    if not (settings.live / "events.sqlite").exists():
        return 0
    with LiveStore(settings) as store:
        with store.transaction():
            removed = store.sql.execute("DELETE FROM events WHERE user_id = ?", [user]).rowcount
            for table in ("visits", "shared", "stale"):
                store.sql.execute(f"DELETE FROM {table} WHERE user_id = ?", [user])
            erasures = int(store.get_meta(ERASURES) or 0)
            store.set_meta(ERASURES, erasures + 1)  # makes the live worker start again
        removed += forget_rows(store, user)
        store.compact()
    return int(removed)


def _erase_reports(settings: Settings, user: str) -> int:
    """Delete reports that name the person; their verb writes them again."""
    named = [file for file in _files(settings, "*.json") if _names(file, user)]
    for file in named:
        file.unlink()
    return len(named)


def _names(file: Path, user: str) -> bool:
    return re.search(_word(user).encode(), file.read_bytes()) is not None


def _erase_redis(client: redis.Redis, user: str) -> int:
    keys = list(_keys(client, user))
    for start in range(0, len(keys), SCAN_KEYS):
        client.delete(*keys[start : start + SCAN_KEYS])
    return len(keys)


def _keys(client: redis.Redis, user: str) -> Iterator[bytes]:
    """Keys that contain the id on its own, or behind its length, as in Feast's keys."""
    name = user.encode()
    word = re.compile(rb"(?<![\w-])" + re.escape(name) + rb"(?![\w-])")
    glob = re.sub(rb"([\[\]*?\\])", rb"\\\1", name)
    for key in client.scan_iter(match=b"*" + glob + b"*", count=SCAN_KEYS):
        place = key.find(name)
        length = int.from_bytes(key[max(0, place - 4) : place], "little")
        if length == len(name) or word.search(key) or _is_packed_of(key, name):
            yield key


def _is_packed_of(key: bytes, user: bytes) -> bool:
    """Whether a key of the packed layout ends with this id (see `nextbuy.stores.online.layout`).

    The shopper is the last of the join keys and has no length. Before it is nothing, or the item
    behind its type and its length, four bytes each.
    """
    rest = key[8:]
    item = int.from_bytes(rest[4:8], "little")
    return key.startswith(b"nb") and user in (rest, rest[8 + item :])


def _search(settings: Settings, client: redis.Redis, user: str, report: ErasureReport) -> None:
    for file in sorted(_files(settings, "*.parquet")):
        report.searched += 1
        if _named_rows(file, user).any():
            report.left.append(str(file))
    for file in sorted(_files(settings, "*.json")):
        report.searched += 1
        if _names(file, user):
            report.left.append(str(file))
    if (settings.live / "events.sqlite").exists():
        report.searched += 1
        with LiveStore(settings) as store:
            if store.sizes([user]) or forget_rows(store, user, remove=False):
                report.left.append(str(store.path))
    size: Any = client.dbsize()
    report.searched += size
    report.left += [f"Redis key {key!r}" for key in _keys(client, user)]
