"""The keys of Feast's hashes, taken apart: whose one is follows exactly.

A key is the number of join keys, their names, their values, and the project's name, which nothing
separates from the last value: a search by beginning and end alone takes `webshop` for `shop`.
"""

import re
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from feast.value_type import ValueType

_u32 = struct.Struct("<I")
_two_u32 = struct.Struct("<II")
SCAN_KEYS = 1000
"""Keys in one round trip."""


class HashKey(NamedTuple):
    """The parts of a key of Feast's hashes."""

    join_keys: tuple[str, ...]
    """In the order of their names."""
    values: tuple[tuple[int, bytes], ...]
    """Per join key its type, as in Feast's `ValueType`, and its bytes."""
    project: str


def hash_key(key: bytes) -> HashKey | None:
    """Take the key of an entity's hash apart; None for any other key.

    >>> hash_key(head(["user_id"]) + bytes([2, 0, 0, 0, 2, 0, 0, 0]) + b"u1" + b"shop")
    HashKey(join_keys=('user_id',), values=((2, b'u1'),), project='shop')
    """
    try:
        (count,) = _u32.unpack_from(key)
        at, names, values = _u32.size, [], []
        if not 0 < count <= len(key) // _two_u32.size:
            return None
        for part in range(2 * count):
            kind, size = _two_u32.unpack_from(key, at)
            at += _two_u32.size
            raw = key[at : at + size]
            at += size
            if at > len(key):
                return None
            if part >= count:
                values.append((kind, raw))
            elif kind == ValueType.STRING.value:
                names.append(raw.decode())
            else:
                return None
        return HashKey(tuple(names), tuple(values), key[at:].decode())
    except (struct.error, UnicodeDecodeError):
        return None


def head(join_keys: Sequence[str]) -> bytes:
    """What the keys of entities with these join keys begin with."""
    names = [name.encode() for name in sorted(join_keys)]
    return _u32.pack(len(names)) + b"".join(
        _two_u32.pack(ValueType.STRING.value, len(name)) + name for name in names
    )


def keys_beginning(client: Any, prefix: bytes) -> Iterator[bytes]:
    """The keys in Redis that begin with these bytes, whatever characters they are."""
    pattern = re.sub(rb"([*?\[\]\\])", rb"\\\1", prefix) + b"*"
    yield from client.scan_iter(pattern, count=SCAN_KEYS)


def project_keys(client: Any, join_keys: Sequence[str], project: str) -> Iterator[bytes]:
    """The keys in Redis of this project's entities with these join keys."""
    for key in keys_beginning(client, head(join_keys)):
        parts = hash_key(key)
        if parts is not None and parts.project == project:
            yield key


def batched(keys: Iterable[bytes]) -> Iterator[list[bytes]]:
    """The keys, as many at a time as one round trip takes."""
    remaining = iter(keys)
    while part := list(islice(remaining, SCAN_KEYS)):
        yield part
