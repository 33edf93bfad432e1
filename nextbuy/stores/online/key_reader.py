"""Whose row a Redis key is: the keys of both layouts, read back to their join keys.

A key is read by its structure alone, to its last byte. What is no row of this project (another
project's, a clock, a cursor) has no join keys.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import Any

from feast.repo_config import RepoConfig

from nextbuy.stores.online.keys import hash_key
from nextbuy.stores.online.layout import RedisLayout, packed_key

_two_u32 = struct.Struct("<II")
PACKED = b"nb"
PACKED_PREFIX_BYTES = 8
"""`nb` and a checksum of project, view and schema; see `packed_layout`."""

JoinKeyValue = tuple[int, bytes]
"""The value of a join key: its type, as Feast numbers it, and its bytes."""


class KeyReader:
    """Reads the keys of one Feast project.

    Args:
        client: its Redis, which records what the packed keys of former schemas begin with.
        config: the project's.
        layouts: of its views.
    """

    def __init__(self, client: Any, config: RepoConfig, layouts: Iterable[RedisLayout]) -> None:
        self._project = config.project
        by_name = {layout.name.encode(): layout for layout in layouts}
        recorded = client.hgetall(packed_key(config.project)).items()
        self._join_keys = {
            prefix: by_name[name].join_keys for prefix, name in recorded if name in by_name
        }
        for layout in by_name.values():
            if layout.packed is not None:
                self._join_keys[layout.packed.prefix] = layout.join_keys

    def join_keys(self, key: bytes) -> Mapping[str, JoinKeyValue] | None:
        """Join key -> value; None for a key that is no row of this project."""
        if not self.is_packed(key):
            parts = hash_key(key)
            if parts is None or parts.project != self._project:
                return None
            return dict(zip(parts.join_keys, parts.values, strict=True))
        join_keys = self._join_keys.get(key[:PACKED_PREFIX_BYTES])
        if join_keys is None:
            return None
        values, at = {}, PACKED_PREFIX_BYTES
        for name, _ in join_keys[:-1]:
            values[name], at = _read(key, at)
        for name, kind in join_keys[-1:]:  # the last one comes without type and length
            values[name] = kind.value, key[at:]
        return values

    def is_packed(self, key: bytes) -> bool:
        """Whether it is a row of the packed layout, of any project."""
        return key.startswith(PACKED)

    def may_be_row_of(self, key: bytes, raw: bytes) -> bool:
        """Whether it is a packed row of an unknown view, whose last join key may be `raw`."""
        if not self.is_packed(key) or key[:PACKED_PREFIX_BYTES] in self._join_keys:
            return False
        if key[PACKED_PREFIX_BYTES:] == raw:
            return True
        try:
            _, end = _read(key, PACKED_PREFIX_BYTES)
        except struct.error:
            return False
        return key[end:] == raw


def _read(key: bytes, at: int) -> tuple[JoinKeyValue, int]:
    """Type and bytes of the value that begins at `at`; where it ends."""
    kind, length = _two_u32.unpack_from(key, at)
    start = at + _two_u32.size
    return (kind, key[start : start + length]), start + length
