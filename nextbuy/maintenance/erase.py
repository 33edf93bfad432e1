"""Erasure: a person leaves every place where they could be found, and a search proves it.

Every Parquet file below the data folder is looked at, whatever table it belongs to and whichever
version: what a stage adds tomorrow is covered without a word here. A row goes when one of its
texts is the person's id, or when it is a refused row whose raw text names it. The live store
overwrites what it deletes; Redis loses the person's keys.

Sums over many people (an item's views, a fitted model) do not name the person; they leave the
former when it is built again, which `nextbuy sessionize` and what follows then do.
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

from nextbuy.errors import NextbuyError
from nextbuy.live.event_store import LiveStore
from nextbuy.live.sync import copy_lock
from nextbuy.live.write_history import forget_rows
from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import running_redis
from nextbuy.versioned_table import ROW_GROUP, Manifest, file_digest, lock

TEXTS = pa.list_(pa.string())
SCANNED = 1000


@dataclass
class Proof:
    """What was removed, and what a search found afterwards."""

    removed: dict[str, int] = field(default_factory=dict)
    """Place -> rows (Redis: keys)."""
    searched: int = 0
    """Files and Redis keys that were searched afterwards."""
    left: list[str] = field(default_factory=list)
    """Where the id is still found; empty is the proof."""

    def __str__(self) -> str:
        lines = [f"{place:<14} {count:>9,} removed" for place, count in self.removed.items()]
        if not lines:
            lines = ["nothing was known of them"]
        return "\n".join([*lines, f"searched {self.searched:,} files and keys: {self._found()}"])

    def _found(self) -> str:
        return f"still in {', '.join(self.left)}" if self.left else "the id is in none of them"


def forget(settings: Settings, user: str) -> Proof:
    """Remove a shopper everywhere below the data folder and from Redis.

    Safe to repeat; a crash leaves each file either as it was or without the person.

    Raises:
        NextbuyError: the id is empty, another run writes the tables, or Redis is out of reach.
    """
    if not user.strip():
        raise NextbuyError("Name the shopper to forget: nextbuy forget USER")
    proof = Proof()
    busy = f"Another run works on {settings.data}"
    with (
        lock(settings.data / "tmp" / "ingest.lock", busy),
        copy_lock(settings),
        running_redis(settings) as url,
        redis.Redis.from_url(url) as client,
    ):
        _count(proof, "live", _from_live(settings, user))
        _count(proof, "Redis", _from_redis(client, user))
        _count(proof, "reports", _from_reports(settings, user))
        for file in sorted(_files(settings, "*.parquet")):
            _count(proof, _place(settings, file), _from_parquet(file, user))
        _search(settings, client, user, proof)
    return proof


def _count(proof: Proof, place: str, removed: int) -> None:
    if removed:
        proof.removed[place] = proof.removed.get(place, 0) + removed


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
    """The id on its own, not within a longer one."""
    return rf"(^|[^\w-]){re.escape(user)}($|[^\w-])"


def _from_parquet(file: Path, user: str) -> int:
    named = _named(file, user)
    count = int(named.sum())
    if not count:
        return 0
    table = pq.ParquetFile(file).read()
    aside = file.with_name(f".{file.name}.forgetting")
    pq.write_table(
        table.filter(pa.array(~named)), aside, compression="zstd", row_group_size=ROW_GROUP
    )
    with aside.open("rb") as written:
        os.fsync(written.fileno())
    aside.replace(file)
    _renew_manifest(file, count)
    return count


def _named(file: Path, user: str) -> NDArray[np.bool_]:
    """Which rows of a Parquet file name the person in one of their texts."""
    parquet = pq.ParquetFile(file)
    kinds = {field.name: field.type for field in parquet.schema_arrow}
    texts = [name for name, kind in kinds.items() if kind in (pa.string(), TEXTS)]
    found = np.zeros(parquet.metadata.num_rows, np.bool_)
    if not texts:
        return found
    for name, column in zip(texts, parquet.read(columns=texts).columns, strict=True):
        array = column.combine_chunks()
        if kinds[name] == TEXTS:
            rows = np.asarray(pc.list_parent_indices(array))
            found[rows[_mentions(pc.list_flatten(array), user)]] = True
        else:
            found |= _mentions(array, user)
    return found


def _mentions(texts: pa.Array, user: str) -> NDArray[np.bool_]:
    likely = pc.fill_null(pc.match_substring(texts, user), False)  # far faster than a pattern
    if pc.any(likely).as_py():
        likely = pc.fill_null(pc.match_substring_regex(texts, _word(user)), False)
    return np.asarray(likely)


def _renew_manifest(file: Path, removed: int) -> None:
    """What was made from the table as it was is not up to date any more."""
    path = file.parents[1] / "manifest.json"
    if not path.exists():
        return
    old = Manifest.model_validate_json(path.read_text())
    day = file.parent.name.removeprefix("day=")
    new = old.model_copy(
        update={"days": old.days | {day: file_digest(file)}, "rows": old.rows - removed}
    )
    aside = path.with_suffix(".forgetting")
    aside.write_text(new.model_dump_json(indent=1))
    aside.replace(path)


def _from_live(settings: Settings, user: str) -> int:
    if not (settings.live / "events.sqlite").exists():
        return 0
    with LiveStore(settings) as store:
        with store.transaction():
            removed = store.sql.execute("DELETE FROM events WHERE user_id = ?", [user]).rowcount
            for table in ("visits", "shared", "stale"):
                store.sql.execute(f"DELETE FROM {table} WHERE user_id = ?", [user])
            store.set_meta(
                "forgotten", int(store.get_meta("forgotten") or 0) + 1
            )  # the worker looks
        removed += forget_rows(store, user)
        store.compact()
    return int(removed)


def _from_reports(settings: Settings, user: str) -> int:
    """Reports that name the person go as a whole; their command makes them again."""
    named = [file for file in _files(settings, "*.json") if _names(file, user)]
    for file in named:
        file.unlink()
    return len(named)


def _names(file: Path, user: str) -> bool:
    return re.search(_word(user).encode(), file.read_bytes()) is not None


def _from_redis(client: redis.Redis, user: str) -> int:
    found = list(_keys(client, user))
    for start in range(0, len(found), SCANNED):
        client.delete(*found[start : start + SCANNED])
    return len(found)


def _keys(client: redis.Redis, user: str) -> Iterator[bytes]:
    """Keys in which the id stands on its own: Feast's hold each id behind its length."""
    wanted = user.encode()
    word = re.compile(rb"(?<![\w-])" + re.escape(wanted) + rb"(?![\w-])")
    glob = re.sub(rb"([\[\]*?\\])", rb"\\\1", wanted)
    for key in client.scan_iter(match=b"*" + glob + b"*", count=SCANNED):
        place = key.find(wanted)
        length = int.from_bytes(key[max(0, place - 4) : place], "little")
        if length == len(wanted) or word.search(key) or _is_packed_of(key, wanted):
            yield key


def _is_packed_of(key: bytes, user: bytes) -> bool:
    """Whether a key of the packed layout ends with this id (see `nextbuy.stores.online.packed`).

    The shopper is the last of the join keys and comes without length; before it there is nothing,
    or the item behind its kind and its length, of four bytes each.
    """
    rest = key[8:]
    item = int.from_bytes(rest[4:8], "little")
    return key.startswith(b"nb") and user in (rest, rest[8 + item :])


def _search(settings: Settings, client: redis.Redis, user: str, proof: Proof) -> None:
    for file in sorted(_files(settings, "*.parquet")):
        proof.searched += 1
        if _named(file, user).any():
            proof.left.append(str(file))
    for file in sorted(_files(settings, "*.json")):
        proof.searched += 1
        if _names(file, user):
            proof.left.append(str(file))
    if (settings.live / "events.sqlite").exists():
        proof.searched += 1
        with LiveStore(settings) as store:
            if store.sizes([user]) or forget_rows(store, user, remove=False):
                proof.left.append(str(store.path))
    size: Any = client.dbsize()
    proof.searched += size
    proof.left += [f"Redis key {key!r}" for key in _keys(client, user)]
