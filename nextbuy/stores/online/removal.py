"""Rows out of Redis: those that left a table, and what a search finds that no table has.

A row is removed from both layouts in one transaction, unless Redis has a newer one by then.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import redis
from feast.repo_config import RepoConfig
from feast.value_type import ValueType
from numpy.typing import NDArray

from nextbuy.stores.online.encoding import command, read_timestamps
from nextbuy.stores.online.keys import batched, head, keys_beginning, project_keys
from nextbuy.stores.online.layout import (
    TIMESTAMP_OF,
    PackedLayout,
    RedisLayout,
    hash_field,
    packed_key,
)
from nextbuy.stores.online.writer import in_transactions, transact, write_error
from nextbuy.times import NOT_SEEN_US

_two_u32 = struct.Struct("<II")
_us = struct.Struct("<q")


def remove(
    client: redis.Redis,
    config: RepoConfig,
    layout: RedisLayout,
    values: Sequence[bytes],
    times: NDArray[np.int64],
) -> int:
    """Remove a view's rows from both layouts; returns how many were there.

    Args:
        values: per row what its key has between the join keys' names and the project: of each
            value its type, its length and its bytes.
        times: per row a timestamp in microseconds since 1970; what is newer in Redis stays.

    Raises:
        NextbuyError: Redis is away.
    """
    commands = _RemovalCommands(config, layout, values, times)
    try:
        for _ in transact(client, in_transactions(commands)):
            pass
    except (redis.RedisError, OSError) as error:
        done = f"removed {commands.removed} rows of feature view {layout.name!r}"
        raise write_error(error, done) from error
    return commands.removed


class _RemovalCommands:
    """Rows as the commands that look at what is there and remove it."""

    def __init__(
        self,
        config: RepoConfig,
        layout: RedisLayout,
        values: Sequence[bytes],
        times: NDArray[np.int64],
    ) -> None:
        self.times = times
        start = head([name for name, _ in layout.join_keys])
        self._keys = [start + each + config.project.encode() for each in values]
        self._packed = [_packed(layout.packed, each) for each in values] if layout.packed else []
        self._timestamp = layout.timestamp_field
        self._fields = [hash_field(layout.name, field.name) for field in layout.features]
        self._counts: dict[int, int] = {}

    @property
    def removed(self) -> int:
        """How many of the rows were there."""
        return sum(self._counts.values())

    def look(self, part: slice) -> tuple[list[bytes | memoryview], int]:
        """Watch the hashes, list their fields and read both layouts' timestamps."""
        looks = [command(b"WATCH", *self._keys[part])]
        for key in self._keys[part]:
            looks += [command(b"HKEYS", key), command(b"HGET", key, self._timestamp)]
        looks += [command(b"GETRANGE", key, "0", "7") for key in self._packed[part]]
        return list(looks), len(looks)

    def transaction(self, part: slice, replies: list[Any]) -> tuple[list[bytes | memoryview], int]:
        """Remove the rows that are there and not newer."""
        rows = part.stop - part.start
        fields, stamps = replies[1 : 1 + 2 * rows : 2], replies[2 : 2 + 2 * rows : 2]
        stored, packed = read_timestamps(stamps), packed_times(replies[1 + 2 * rows :])
        if not self._packed:
            packed = np.full(rows, NOT_SEEN_US)
        newest = np.maximum(stored, packed)
        gone = (newest <= self.times[part]) & (newest != NOT_SEEN_US)
        commands = [command(b"MULTI")]
        for row in np.flatnonzero(gone):
            at = part.start + int(row)
            others = [f for f in fields[row] if f.startswith(TIMESTAMP_OF) and f != self._timestamp]
            if others:
                commands.append(command(b"HDEL", self._keys[at], self._timestamp, *self._fields))
            else:  # with what a former schema has left in it
                commands.append(command(b"DEL", self._keys[at]))
            if self._packed:
                commands.append(command(b"DEL", self._packed[at]))
        commands.append(command(b"EXEC"))
        self._counts[part.start] = int(gone.sum())
        return list(commands), len(commands)


def _packed(packed: PackedLayout, values: bytes) -> bytes:
    """The key of the packed layout, where the last value comes without its type and length."""
    at = 0
    while (end := at + _two_u32.size + _two_u32.unpack_from(values, at)[1]) < len(values):
        at = end
    return packed.prefix + values[:at] + values[at + _two_u32.size :]


def packed_times(raw: Sequence[bytes]) -> NDArray[np.int64]:
    """The timestamps that packed rows begin with; NOT_SEEN_US where there is no row."""
    return np.array(
        [_us.unpack(each)[0] if len(each) == _us.size else NOT_SEEN_US for each in raw], np.int64
    )


def stored_rows(client: Any, config: RepoConfig, layout: RedisLayout) -> pa.Table:
    """Search all of Redis for a view's rows, in both layouts.

    Returns:
        `values` (binary, as in `remove`), `us` (int64, microseconds since 1970): a row for each
        key.
    """
    names = [name for name, _ in layout.join_keys]
    hashes = list(project_keys(client, names, config.project))
    start, end = len(head(names)), len(config.project.encode())
    values, times = [key[start : len(key) - end] for key in hashes], []
    for keys in batched(hashes):
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.hget(key, layout.timestamp_field)
        times.append(read_timestamps(pipe.execute()))
    if layout.packed:
        packed = list(keys_beginning(client, layout.packed.prefix))
        kinds = [kind for _, kind in layout.join_keys]
        values += [_values(key[len(layout.packed.prefix) :], kinds) for key in packed]
        for keys in batched(packed):
            pipe = client.pipeline(transaction=False)
            for key in keys:
                pipe.getrange(key, 0, 7)
            times.append(packed_times(pipe.execute()))
    us = np.concatenate(times) if times else np.empty(0, np.int64)
    rows = pa.table({"values": pa.array(values, pa.binary()), "us": us})
    rows = rows.filter(pa.array(us != NOT_SEEN_US))
    return rows.group_by("values").aggregate([("us", "max")]).rename_columns(["values", "us"])


def _values(raw: bytes, kinds: Sequence[ValueType]) -> bytes:
    """The values of a packed key with the type and length that its last value lacks."""
    at = 0
    for _ in kinds[:-1]:
        at += _two_u32.size + _two_u32.unpack_from(raw, at)[1]
    return raw[:at] + _two_u32.pack(kinds[-1].value, len(raw) - at) + raw[at:]


def former_prefixes(client: Any, config: RepoConfig, layout: RedisLayout) -> list[bytes]:
    """What packed keys of the view's former schemas begin with; no reader finds them."""
    recorded: Any = client.hgetall(packed_key(config.project))
    current = layout.packed.prefix if layout.packed else b""
    return [
        prefix
        for prefix, view in recorded.items()
        if view == layout.name.encode() and prefix != current
    ]


def remove_prefix(client: Any, project: str, prefix: bytes) -> int:
    """Remove packed rows by what their keys begin with; returns how many."""
    removed = 0
    for keys in batched(keys_beginning(client, prefix)):
        removed += int(client.delete(*keys))
    client.hdel(packed_key(project), prefix)
    return removed
