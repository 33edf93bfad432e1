"""Requests for feature rows and their replies as NumPy columns: the reading side of `writer`.

One class per layout. What can be worked out before a request comes is worked out when a reader is
made; a request then costs a few calls per feature view, not per value.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.type_map import feast_value_type_to_python_type
from feast.value_type import ValueType
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError
from nextbuy.stores.encode import NANOS, SECONDS
from nextbuy.stores.packed import TEXT, Packing
from nextbuy.stores.wire import bulk, header
from nextbuy.stores.writer import Layout

NEVER = -(2**63)
MICROSECOND = timedelta(microseconds=1)

FIXED = {
    ValueType.DOUBLE: np.dtype([("tag", "u1"), ("value", "<f8")]),
    ValueType.FLOAT: np.dtype([("tag", "u1"), ("value", "<f4")]),
    ValueType.BOOL: np.dtype([("tag", "u1"), ("value", "?")]),
}
INTEGERS = {ValueType.INT64: np.int64, ValueType.INT32: np.int32}
LONG: dict[ValueType, Callable[[bytes], Any]] = {
    ValueType.STRING: bytes.decode,
    ValueType.BYTES: bytes,
}
"""What makes a value of the packed layout from its bytes; `Value` messages where none is named."""
_two = struct.Struct("<II").pack


@dataclass(frozen=True, slots=True)
class Column:
    """One feature of all rows."""

    values: NDArray[Any]
    """Shape (rows,): integers, floats or booleans; text and lists as objects."""
    present: NDArray[np.bool_]
    """Shape (rows,): where the value is known; elsewhere `values` holds anything."""

    def to_arrow(self) -> pa.Array:
        """The column with nulls."""
        return pa.array(self.values, mask=~self.present, from_pandas=False)


Answer = tuple[NDArray[np.int64], list[Column]]
"""Event timestamps in microseconds (NEVER where there is no row), and the features in order."""


class ViewReader:
    """One feature view of a reader: makes Redis keys, decodes replies."""

    packed: bool

    def __init__(self, into: Layout, title: str, asked: list[str], kinds: list[ValueType]) -> None:
        self.title = title
        self.asked = asked
        """The request's columns that make the key, in the order of the join keys' names."""
        self.ttl = into.ttl // MICROSECOND if into.ttl else None
        self._kinds = kinds
        last = len(asked) - 1
        self._encoders = [
            _encoder(kind, name, bare=self.packed and i == last)
            for i, (name, kind) in enumerate(into.join_keys[: len(asked)])
        ]
        self._prefix, self._suffix = b"", b""

    def keys(
        self, columns: Sequence[Sequence[Any]], rows: int
    ) -> tuple[list[bytes], NDArray[np.intp] | None]:
        """The distinct Redis keys of a request and, for each row, which of them is its own.

        None stands for: each row its own. A null in a key makes a key that no row has.
        """
        varying = [i for i, column in enumerate(columns) if len(column) != 1]
        places = None
        if not varying:
            places = None if rows == 1 else np.zeros(rows, np.intp)
        elif len(varying) == 1:
            only = columns[varying[0]]
            if len(distinct := dict.fromkeys(only)) < rows:
                places = _numbered(only)
                columns = [list(distinct) if i in varying else c for i, c in enumerate(columns)]
        else:
            entities = list(zip(*(columns[i] for i in varying), strict=True))
            if len(distinct := dict.fromkeys(entities)) < rows:
                places = _numbered(entities)
                split = iter(list(zip(*distinct, strict=True)))
                columns = [next(split) if i in varying else c for i, c in enumerate(columns)]
        pieces = [encode(column) for encode, column in zip(self._encoders, columns, strict=True)]
        return self._joined(pieces), places

    def _joined(self, pieces: list[list[bytes | None]]) -> list[bytes]:
        if any(None in piece for piece in pieces):
            count = max(map(len, pieces))
            spread = [piece * count if len(piece) == 1 else piece for piece in pieces]
            return [
                b"" if None in parts else b"".join([self._prefix, *parts, self._suffix])
                for parts in zip(*spread, strict=True)
            ]
        keys: list[Any] = [self._prefix]
        for piece in pieces:
            if len(piece) == 1:
                keys = [key + piece[0] for key in keys]
            elif len(keys) == 1:
                keys = [keys[0] + part for part in piece]
            else:
                keys = [key + part for key, part in zip(keys, piece, strict=True)]
        return [key + self._suffix for key in keys] if self._suffix else keys

    def decode(
        self, replies: list[Any], places: NDArray[np.intp] | None, oldest: int | None
    ) -> Answer:
        """The rows of a request; those with an event timestamp before `oldest` are not there."""
        raise NotImplementedError


class HashView(ViewReader):
    """Stock Feast's layout: one HMGET per entity, the timestamp last."""

    packed = False

    def __init__(
        self, into: Layout, title: str, asked: list[str], features: dict[str, ValueType],
        config: RepoConfig,
    ) -> None:  # fmt: skip
        super().__init__(into, title, asked, list(features.values()))
        names = [name.encode() for name, _ in into.join_keys]
        self._prefix = struct.pack("<I", len(names)) + b"".join(
            _two(ValueType.STRING.value, len(name)) + name for name in names
        )
        if not asked:  # a view without entities has one row, of Feast's dummy entity
            self._prefix += _two(ValueType.STRING.value, 0)
        self._suffix = config.project.encode()
        self.fields = (*(into.field(name) for name in features), into.stamp_field)
        self._open = header(2 + len(self.fields)) + bulk(b"HMGET")
        self._close = b"".join(map(bulk, self.fields))
        self._groups: dict[ValueType, list[int]] = {}
        for i, kind in enumerate(self._kinds):
            self._groups.setdefault(kind, []).append(i)

    def commands(self, keys: list[bytes]) -> bytes:
        """The commands that read these keys."""
        start, end = self._open, self._close
        return b"".join([b"%b$%d\r\n%b\r\n%b" % (start, len(key), key, end) for key in keys])

    def decode(
        self, replies: list[Any], places: NDArray[np.intp] | None, oldest: int | None
    ) -> Answer:
        """Decode the replies of the HMGETs."""
        width, rows = len(self.fields), len(replies)
        flat: list[bytes | None] = list(chain.from_iterable(replies))
        times = _stamps(flat[width - 1 :: width])
        alive = None
        if oldest is not None and not (fresh := times >= oldest).all():
            alive, times = fresh, np.where(fresh, times, NEVER)
        columns: list[Any] = [None] * len(self._kinds)
        for kind, positions in self._groups.items():
            raw = list(chain.from_iterable([flat[i::width] for i in positions]))
            shape = (len(positions), rows)
            values, present = (part.reshape(shape) for part in _decoded(raw, kind))
            if alive is not None:
                present = present & alive
            if places is not None:
                values, present = values[:, places], present[:, places]
            for i, row, known in zip(positions, values, present, strict=True):
                columns[i] = Column(row, known)
        return times if places is None else times[places], columns


class PackedView(ViewReader):
    """The packed layout: one key of an MGET per entity."""

    packed = True

    def __init__(
        self, into: Layout, title: str, asked: list[str], features: dict[str, ValueType],
        config: RepoConfig,
    ) -> None:  # fmt: skip
        super().__init__(into, title, asked, list(features.values()))
        if into.packing is None:
            raise NextbuyError(f"Feature view {title!r} is not packed.")
        self._packing: Packing = into.packing
        self._prefix = into.packing.prefix
        self._slots = [(f"v{i}", i) for i in (into.packing.names.index(name) for name in features)]
        self._size = into.packing.dtype.itemsize
        self._nothing = bytes(self._size)

    def decode(
        self, replies: list[Any], places: NDArray[np.intp] | None, oldest: int | None
    ) -> Answer:
        """Decode the values of the MGET."""
        size, nothing = self._size, self._nothing
        if self._packing.long:
            fixed = b"".join([row[:size] if row else nothing for row in replies])
        else:
            fixed = b"".join([row or nothing for row in replies])
        rows = np.frombuffer(fixed, self._packing.dtype)
        times, present = rows["time"], rows["present"]
        if None in replies:
            times = np.where([row is not None for row in replies], times, NEVER)
        if oldest is not None and not (alive := times >= oldest).all():
            times, present = np.where(alive, times, NEVER), present & alive[:, None]
        texts = self._long(replies, rows, present)
        if places is not None:
            times, rows, present = times[places], rows[places], present[places]
            texts = {i: column[places] for i, column in texts.items()}
        known = present.T.copy()
        return times, [
            Column(texts[i], _not_none(texts[i])) if i in texts else Column(rows[name], known[i])
            for name, i in self._slots
        ]

    def _long(
        self, replies: list[Any], rows: NDArray[Any], present: NDArray[np.bool_]
    ) -> dict[int, NDArray[Any]]:
        starts = np.full(len(replies), self._size)
        found, wanted = {}, {i for _, i in self._slots}
        for i in self._packing.long:
            ends = starts + rows[f"v{i}"]
            if i in wanted:
                take = LONG.get(self._packing.kinds[i], _any)
                column = np.empty(len(replies), object)
                spans = zip(replies, starts.tolist(), ends.tolist(), strict=True)
                for n, (row, start, end) in enumerate(spans):
                    if row and present[n, i]:
                        column[n] = take(row[start:end])
                found[i] = column
            starts = ends
        return found


def _numbered(entities: Sequence[Any]) -> NDArray[np.intp]:
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(each, len(numbers)) for each in entities], np.intp)


def _encoder(
    kind: ValueType, name: str, bare: bool
) -> Callable[[Sequence[Any]], list[bytes | None]]:
    """What turns a column of one join key into pieces of keys; None for a null."""
    number = kind.value
    one: Callable[[Any], bytes]
    match kind, bare:
        case (ValueType.STRING, True):
            one = str.encode
        case (ValueType.BYTES, True):
            one = bytes
        case (ValueType.STRING, False):

            def one(value: Any) -> bytes:
                raw: bytes = str.encode(value)
                return _two(number, len(raw)) + raw
        case (ValueType.BYTES, False):

            def one(value: Any) -> bytes:
                return _two(number, len(value)) + bytes(value)
        case (ValueType.INT64 | ValueType.INT32, _):
            letter, size = ("q", 8) if kind == ValueType.INT64 else ("i", 4)
            pack = struct.Struct(f"<{letter}").pack
            start = b"" if bare else _two(number, size)

            def one(value: Any) -> bytes:
                return start + pack(value)
        case _:
            raise NextbuyError(f"The join key {name!r} is of type {kind.name}, which has no key.")
    takes = {ValueType.STRING: "str", ValueType.BYTES: "bytes"}.get(kind, "int")

    def encoder(values: Sequence[Any]) -> list[bytes | None]:
        try:
            return [None if value is None else one(value) for value in values]
        except (TypeError, struct.error) as error:
            raise NextbuyError(f"The join key {name!r} takes {takes}: {error}.") from None

    return encoder


def _stamps(raw: Sequence[bytes | None]) -> NDArray[np.int64]:
    """Protobuf Timestamps in microseconds; NEVER where there is none."""
    times = np.zeros(len(raw), np.int64)
    owners = np.repeat(np.arange(len(raw)), [len(stamp or b"") for stamp in raw])
    tags, numbers, starts = _fields(b"".join(filter(None, raw)))
    seconds, nanos = tags == SECONDS, tags == NANOS
    times[owners[starts[seconds]]] = numbers[seconds] * 1_000_000
    times[owners[starts[nanos]]] += numbers[nanos] // 1000
    if None in raw:
        times[[stamp is None for stamp in raw]] = NEVER
    return times


def _decoded(raw: list[bytes | None], kind: ValueType) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Serialized `Value` messages of one kind; nothing, or nothing in a message, is missing."""
    present = np.array(list(map(bool, raw)), np.bool_)
    if kind in FIXED or kind in INTEGERS:
        joined = b"".join(filter(None, raw))
        if kind in FIXED:
            found: NDArray[Any] = np.frombuffer(joined, FIXED[kind])["value"]
        else:
            found = _fields(joined)[1].astype(INTEGERS[kind])
        if len(found) == len(raw):
            return found, present
        values = np.zeros(len(raw), found.dtype)
        values[present] = found
        return values, present
    objects = np.empty(len(raw), object)
    for i, value in enumerate(raw):
        if value:
            objects[i] = _text(value, kind) if kind in TEXT else _any(value)
    return objects, _not_none(objects)


def _not_none(objects: NDArray[Any]) -> NDArray[np.bool_]:
    """Feast writes a missing time as a message with a number that stands for it."""
    return np.array([each is not None for each in objects], np.bool_)


def _fields(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.intp]]:
    """Tags, numbers and places of protobuf fields that follow each other, all of them varints."""
    raw = np.frombuffer(data, np.uint8)
    # Bytes below 128 are tags and the last bytes of numbers by turns: all between are 128 and up.
    edges = np.flatnonzero(raw < 128)
    starts, ends = edges[::2], edges[1::2]
    lengths = ends - starts
    numbers = np.zeros(len(starts), np.uint64)
    for i in range(int(lengths.max(initial=0))):
        more = np.flatnonzero(lengths > i)
        part = (raw[starts[more] + 1 + i] & 0x7F).astype(np.uint64)
        numbers[more] |= part << np.uint64(7 * i)
    return raw[starts], numbers.view(np.int64), starts


def _text(value: bytes, kind: ValueType) -> str | bytes:
    """The content of a `Value` of text: tag, length as a varint, bytes."""
    at = 1
    while value[at] >= 128:
        at += 1
    return value[at + 1 :].decode() if kind == ValueType.STRING else value[at + 1 :]


def _any(value: bytes) -> Any:
    return feast_value_type_to_python_type(Value.FromString(value))
