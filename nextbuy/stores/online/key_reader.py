"""Whose row a Redis key is: the keys of both layouts, read back to their join keys.

A key is read by its structure alone, to its last byte. What is no row of this project (another
project's, a clock, a cursor) has no join keys.
"""

import mmap
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from feast.repo_config import RepoConfig
from feast.value_type import ValueType

from nextbuy.stores.online.layout import RedisLayout

_u32 = struct.Struct("<I").unpack_from
PACKED = b"nb"
PACKED_PREFIX_BYTES = 8
"""`nb` and a checksum of project, view and schema; see `packed_layout`."""
MAX_JOIN_KEYS = 16
"""More than any view has; a number above it is no count of join keys."""


class JoinKeyValue(NamedTuple):
    """The value of one join key in a Redis key."""

    kind: int
    """Feast's number of the type."""
    raw: bytes
    start: int
    """Where its bytes begin."""


JoinKeyValues = Mapping[str, JoinKeyValue]


class KeyReader:
    """Reads the keys of one Feast project."""

    def __init__(self, config: RepoConfig, layouts: Iterable[RedisLayout]) -> None:
        self._project = config.project.encode()
        self._join_keys = {
            layout.packed.prefix: layout.join_keys
            for layout in layouts
            if layout.packed is not None
        }

    def join_keys(self, key: bytes) -> JoinKeyValues | None:
        """Join key -> value; None for a key that is no row of this project."""
        if not self.is_packed(key):
            return self.hash_key_at(key, 0, len(key))
        join_keys = self._join_keys.get(key[:PACKED_PREFIX_BYTES])
        return None if join_keys is None else _packed(key, join_keys)

    def is_packed(self, key: bytes) -> bool:
        """Whether it is a row of the packed layout, of any project."""
        return key.startswith(PACKED)

    def may_be_row_of(self, key: bytes, raw: bytes) -> bool:
        """Whether it is a packed row of a view or a schema that is not among the layouts, whose
        last join key may be `raw`."""
        if not self.is_packed(key) or key[:PACKED_PREFIX_BYTES] in self._join_keys:
            return False
        if key[PACKED_PREFIX_BYTES:] == raw:
            return True
        try:
            _, end = _read(key, PACKED_PREFIX_BYTES)
        except (struct.error, IndexError):
            return False
        return key[end:] == raw

    def hash_key_at(
        self, content: bytes | mmap.mmap, at: int, end: int | None = None
    ) -> JoinKeyValues | None:
        """The join keys of the hash's key that begins at `at`; None if none of this project does.

        Args:
            content: a key, or anything that holds one, such as a file of Redis.
            at: where the key begins.
            end: where it ends; None: it may go on.
        """
        try:
            (count,) = _u32(content, at)
            if not 0 < count <= MAX_JOIN_KEYS:
                return None
            names, values, at = [], {}, at + 4
            for _ in range(count):
                name, at = _read(content, at)
                names.append(name.raw.decode())
            for each in names:
                values[each], at = _read(content, at)
        except (struct.error, UnicodeDecodeError, IndexError):
            return None
        after = at + len(self._project)
        is_ours = content[at:after] == self._project and end in (None, after)
        return values if is_ours else None


def _packed(key: bytes, join_keys: Sequence[tuple[str, ValueType]]) -> JoinKeyValues | None:
    """The last join key comes without type and length; see `packed_keys`."""
    values, at = {}, PACKED_PREFIX_BYTES
    try:
        for name, _ in join_keys[:-1]:
            values[name], at = _read(key, at)
    except (struct.error, IndexError):
        return None
    for name, kind in join_keys[-1:]:
        values[name] = JoinKeyValue(kind.value, key[at:], at)
    return values


def _read(content: bytes | mmap.mmap, at: int) -> tuple[JoinKeyValue, int]:
    """Type, length and bytes of what begins at `at`; where it ends."""
    (kind,), (length,) = _u32(content, at), _u32(content, at + 4)
    end = at + 8 + length
    if end > len(content):
        raise IndexError
    return JoinKeyValue(kind, content[at + 8 : end], at + 8), end
