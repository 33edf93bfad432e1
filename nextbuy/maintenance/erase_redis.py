"""The rows of shoppers in Redis, and in the files that the embedded Redis keeps.

A key is a shopper's if it is a row of this project and its join key of shoppers equals one of the
ids. What was deleted stays in the append-only file until Redis writes that again.
"""

import mmap
import re
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import redis
from feast import FeatureStore
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.value_type import ValueType

from nextbuy.errors import NextbuyError
from nextbuy.events import SHOPPER_COLUMNS
from nextbuy.settings import Settings
from nextbuy.stores.online.key_reader import JoinKeyValue, KeyReader
from nextbuy.stores.online.keys import SCAN_KEYS, batched
from nextbuy.stores.online.layout import redis_layout

REWRITE_SECONDS = 600
MAX_KEY_BYTES = 8192  # before the shopper's id; the texts of a key have at most 256 characters


class RedisKeys(NamedTuple):
    """The keys of some shoppers."""

    theirs: list[bytes]
    others: int
    """Keys among them that Feast itself reads as another's: 0, or nothing is removed."""
    unknown: list[bytes]
    """Packed rows that may be theirs, of a view or a schema that the registry does not have."""


class ShopperKeys:
    """Finds the keys of shoppers among those of one Feast project."""

    def __init__(self, settings: Settings, client: redis.Redis) -> None:
        store = FeatureStore(repo_path=str(settings.feature_repo))
        self._client = client
        self._project = store.config.project.encode()
        has_packed = hasattr(store.config.online_store, "packed")
        views = store.list_feature_views() if has_packed else []
        layouts = [redis_layout(store.config, view) for view in views]
        self._reader = KeyReader(client, store.config, layouts)

    def of(self, ids: Collection[str]) -> RedisKeys:
        """The keys of these shoppers."""
        theirs: dict[bytes, None] = {}
        unknown: dict[bytes, None] = {}
        others = 0
        for user in sorted(ids):
            for key in self._keys_with(user.encode()):
                if _names(self._reader.join_keys(key), ids):
                    others += key not in theirs and not self._feast_agrees(key, ids)
                    theirs[key] = None
                elif self._reader.may_be_row_of(key, user.encode()):
                    unknown[key] = None
        return RedisKeys(list(theirs), others, list(unknown))

    def are_in(self, file: Path, ids: Collection[str]) -> bool:
        """Whether a file of Redis holds the key of a hash of these shoppers.

        Keys are looked for as they are: Redis must not have compressed them. The packed rows need
        no search of their own, since a hash is written with each of them.
        """
        if not file.stat().st_size:
            return False
        with (
            file.open("rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return any(self._has_key(content, user.encode(), ids) for user in ids)

    def _has_key(self, content: mmap.mmap, raw: bytes, ids: Collection[str]) -> bool:
        """Whether the bytes of a key end with this value of a join key and the project."""
        string = _u32(ValueType.STRING.value)
        end_of_key = string + _u32(len(raw)) + raw + self._project
        for match in re.finditer(re.escape(end_of_key), content):
            # A key begins four bytes before the type of its first join key's name.
            first = max(4, match.start() - MAX_KEY_BYTES)
            at = content.find(string, first, match.start())
            while at != -1:
                if _names(self._reader.join_keys(content[at - 4 : match.end()]), ids):
                    return True
                at = content.find(string, at + 1, match.start())
        return False

    def _keys_with(self, name: bytes) -> Iterator[bytes]:
        """Every key that contains these bytes."""
        pattern = re.sub(rb"([\[\]*?\\])", rb"\\\1", name)
        yield from self._client.scan_iter(match=b"*" + pattern + b"*", count=SCAN_KEYS)

    def _feast_agrees(self, key: bytes, ids: Collection[str]) -> bool:
        """Feast's own reading of a hash's key; the packed layout is ours alone."""
        if self._reader.is_packed(key):
            return True
        entity = deserialize_entity_key(key.removesuffix(self._project))
        named = dict(zip(entity.join_keys, entity.entity_values, strict=True))
        return any(named[name].string_val in ids for name in SHOPPER_COLUMNS if name in named)


def delete(client: redis.Redis, keys: list[bytes]) -> None:
    """Delete keys, some at a time."""
    for some in batched(keys):
        client.delete(*some)


def rewrite_files(client: redis.Redis) -> None:
    """Let the embedded Redis write its append-only file and its dump again, uncompressed.

    Raises:
        NextbuyError: it cannot, for want of room or of memory for a copy of itself.
    """
    settings: Any = client.config_get("*")
    client.config_set("rdbcompression", "no")  # so that the files can be searched
    try:
        if settings["appendonly"] == "yes":
            _in_background(client, client.bgrewriteaof, "aof_last_bgrewrite_status")
        _in_background(client, client.bgsave, "rdb_last_bgsave_status")
    finally:
        client.config_set("rdbcompression", settings["rdbcompression"])


def _in_background(client: redis.Redis, begin: Any, status: str) -> None:
    _wait_until_idle(client)
    begin()
    if _wait_until_idle(client)[status] != "ok":
        raise NextbuyError(
            "Redis could not write its files again: it needs room on the disk and memory for "
            "what changes meanwhile. See redis.log in its folder, then run the command again."
        )


def _wait_until_idle(client: redis.Redis) -> Any:
    deadline = time.monotonic() + REWRITE_SECONDS
    busy = ("rdb_bgsave_in_progress", "aof_rewrite_in_progress", "aof_rewrite_scheduled")
    while time.monotonic() < deadline:
        state: Any = client.info("persistence")
        if not any(state[each] for each in busy):
            return state
        time.sleep(0.01)
    raise NextbuyError(
        f"Redis has been writing its files for {REWRITE_SECONDS // 60} minutes. Wait for it to "
        "end, then run the command again."
    )


def _names(values: Mapping[str, JoinKeyValue] | None, ids: Collection[str]) -> bool:
    """Whether a join key of shoppers equals one of the ids."""
    theirs = {(ValueType.STRING.value, user.encode()) for user in ids}
    return values is not None and any(values.get(name) in theirs for name in SHOPPER_COLUMNS)


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")
