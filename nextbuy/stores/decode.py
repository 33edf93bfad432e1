"""From the bytes in Redis to NumPy columns: the reading side of `writer`, for both layouts."""

import struct
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import numpy as np
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.type_map import feast_value_type_to_python_type
from feast.value_type import ValueType
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError
from nextbuy.stores.encode import NANOS, SECONDS
from nextbuy.stores.packed import TEXT, Packing
from nextbuy.stores.writer import Layout

NEVER = -(2**63)
MICROSECOND = timedelta(microseconds=1)
Decoded = tuple[NDArray[Any], NDArray[np.bool_]]
"""Values and where they are present, each of shape (entities,)."""

FIXED = {
    ValueType.DOUBLE: np.dtype([("tag", "u1"), ("value", "<f8")]),
    ValueType.FLOAT: np.dtype([("tag", "u1"), ("value", "<f4")]),
    ValueType.BOOL: np.dtype([("tag", "u1"), ("value", "?")]),
}
INTEGERS = {ValueType.INT64: np.int64, ValueType.INT32: np.int32}


class ViewReader:
    """One feature view of a reader: makes Redis keys, decodes replies."""

    packed: bool
    fields: tuple[bytes, ...] = ()
    """Hash fields to ask for, the timestamp last."""

    def __init__(
        self,
        into: Layout,
        title: str,
        asked: list[str],
        features: dict[str, ValueType],
        config: RepoConfig,
    ) -> None:
        self.title = title
        self.asked = asked
        """The request's columns that make the key, in the order of the join keys' names."""
        self.names = [f"{title}__{name}" for name in features]
        self.ttl = into.ttl // MICROSECOND if into.ttl else None
        self.features = features
        self._kinds = [kind for key, kind in into.join_keys][: len(asked)]
        self._encoders = [_encoder(kind, key) for (key, kind) in into.join_keys[: len(asked)]]

    def keys(
        self, columns: Sequence[Sequence[Any]], rows: int
    ) -> tuple[list[bytes], NDArray[np.intp]]:
        """The distinct Redis keys of a request and, for each row, which of them is its own.

        A null in a key makes a key that no row has.
        """
        if all(len(column) == 1 for column in columns):
            return [self.key([column[0] for column in columns])], np.zeros(rows, np.intp)
        spread = [column if len(column) == rows else [column[0]] * rows for column in columns]
        entities: list[Any] = (
            list(spread[0]) if len(spread) == 1 else list(zip(*spread, strict=True))
        )
        numbers: dict[Any, int] = {}
        places = [numbers.setdefault(entity, len(numbers)) for entity in entities]
        if len(spread) == 1:
            return [self.key((entity,)) for entity in numbers], np.array(places, np.intp)
        return [self.key(entity) for entity in numbers], np.array(places, np.intp)

    def key(self, entity: Sequence[Any]) -> bytes:
        """The Redis key of one entity."""
        raise NotImplementedError

    def decode(self, replies: list[Any]) -> tuple[NDArray[np.int64], list[Decoded]]:
        """Event timestamps (NEVER where there is no row), and the features in order."""
        raise NotImplementedError


class HashView(ViewReader):
    """Stock Feast's layout."""

    packed = False

    def __init__(
        self,
        into: Layout,
        title: str,
        asked: list[str],
        features: dict[str, ValueType],
        config: RepoConfig,
    ) -> None:
        super().__init__(into, title, asked, features, config)
        self.fields = (*(into.field(name) for name in features), into.stamp_field)
        empty = EntityKey(join_keys=[key for key, _ in into.join_keys])
        self._project = config.project.encode()
        if asked:
            self._head = struct.pack("<I", len(into.join_keys))
            for name, _ in into.join_keys:
                raw = name.encode()
                self._head += struct.pack("<II", ValueType.STRING.value, len(raw)) + raw
        else:  # a view without entities has one row, of Feast's dummy entity
            empty.entity_values.append(Value(string_val=""))
            self._head = serialize_entity_key(empty, config.entity_key_serialization_version)

    def key(self, entity: Sequence[Any]) -> bytes:
        """Feast's entity key, then the project."""
        parts = [self._head]
        for encoder, kind, value in zip(self._encoders, self._kinds, entity, strict=True):
            if value is None:
                return b""
            raw = encoder(value)
            parts.append(struct.pack("<II", kind.value, len(raw)))
            parts.append(raw)
        parts.append(self._project)
        return b"".join(parts)

    def decode(self, replies: list[Any]) -> tuple[NDArray[np.int64], list[Decoded]]:
        """Decode the replies of one HMGET per entity."""
        columns: list[Any] = list(zip(*replies, strict=True)) or [()] * len(self.fields)
        return _stamps(columns[-1]), [
            _column(column, kind)
            for column, kind in zip(columns, self.features.values(), strict=False)
        ]


class PackedView(ViewReader):
    """The packed layout."""

    packed = True

    def __init__(
        self,
        into: Layout,
        title: str,
        asked: list[str],
        features: dict[str, ValueType],
        config: RepoConfig,
    ) -> None:
        super().__init__(into, title, asked, features, config)
        if into.packing is None:
            raise NextbuyError(f"Feature view {title!r} is not packed.")
        self._packing: Packing = into.packing
        self._slots = [into.packing.names.index(name) for name in features]
        self._nothing = bytes(into.packing.dtype.itemsize)

    def key(self, entity: Sequence[Any]) -> bytes:
        """As `Packing.keys`."""
        if None in entity:
            return b""
        if not entity:
            return self._packing.prefix
        if len(entity) == 1:
            return self._packing.prefix + self._encoders[0](entity[0])
        parts = [self._packing.prefix]
        for encoder, kind, value in zip(self._encoders, self._kinds, entity, strict=True):
            raw = encoder(value)
            parts += [struct.pack("<II", kind.value, len(raw)), raw]
        del parts[-2]
        return b"".join(parts)

    def decode(self, replies: list[Any]) -> tuple[NDArray[np.int64], list[Decoded]]:
        """Decode the rows of one MGET."""
        size, nothing = self._packing.dtype.itemsize, self._nothing
        if self._packing.texts:
            fixed = b"".join([row[:size] if row else nothing for row in replies])
        else:
            fixed = b"".join([row or nothing for row in replies])
        rows = np.frombuffer(fixed, self._packing.dtype)
        times, presence = rows["time"], rows["present"]
        if None in replies:
            times = np.where([row is not None for row in replies], times, NEVER)
        texts = self._texts(replies, rows, presence)
        return times, [(texts.get(i, rows[f"v{i}"]), presence[:, i]) for i in self._slots]

    def _texts(
        self, replies: list[Any], rows: NDArray[Any], presence: NDArray[np.bool_]
    ) -> dict[int, NDArray[Any]]:
        starts = np.full(len(replies), self._packing.dtype.itemsize)
        found = {}
        for i in self._packing.texts:
            ends = starts + rows[f"v{i}"]
            if i in self._slots:
                text = self._packing.kinds[i] == ValueType.STRING
                column = np.empty(len(replies), object)
                for n, (row, start, end, known) in enumerate(
                    zip(
                        replies,
                        starts.tolist(),
                        ends.tolist(),
                        presence[:, i].tolist(),
                        strict=True,
                    )
                ):
                    if known:
                        column[n] = row[start:end].decode() if text else row[start:end]
                found[i] = column
            starts = ends
        return found


def _encoder(kind: ValueType, name: str) -> Callable[[Any], bytes]:
    match kind:
        case ValueType.STRING:
            kinds, encode = str, str.encode
        case ValueType.BYTES:
            kinds, encode = bytes, bytes
        case ValueType.INT64:
            kinds, encode = int, struct.Struct("<q").pack
        case ValueType.INT32:
            kinds, encode = int, struct.Struct("<i").pack
        case _:
            raise NextbuyError(f"The join key {name!r} is of type {kind.name}, which has no key.")

    def checked(value: Any) -> bytes:
        try:
            return encode(value)  # type: ignore[operator, no-any-return]
        except (TypeError, struct.error):
            raise NextbuyError(
                f"The join key {name!r} takes {kinds.__name__}, not {value!r}."
            ) from None

    return checked


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


def _column(raw: Sequence[bytes | None], kind: ValueType) -> Decoded:
    """One feature of all entities; nothing, and nothing within a `Value`, is missing."""
    present = np.array([bool(value) for value in raw], np.bool_)
    if kind in FIXED:
        values = np.zeros(len(raw), FIXED[kind]["value"])
        if (joined := b"".join(filter(None, raw))) and present.any():
            values[present] = np.frombuffer(joined, FIXED[kind])["value"]
        return values, present
    if kind in INTEGERS:
        values = np.zeros(len(raw), INTEGERS[kind])
        if present.any():
            _, numbers, _ = _fields(b"".join(filter(None, raw)))
            values[present] = numbers.astype(INTEGERS[kind])
        return values, present
    objects = np.empty(len(raw), object)
    for i, value in enumerate(raw):
        if value:
            objects[i] = _text(value, kind) if kind in TEXT else _any(value)
    return objects, present


def _fields(data: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.intp]]:
    """Tags, numbers and places of protobuf fields that follow each other, all of them varints."""
    raw = np.frombuffer(data, np.uint8)
    # Bytes below 128 are tags and the last bytes of numbers by turns: all between are 128 and up.
    edges = np.flatnonzero(raw < 128)
    starts, ends = edges[::2], edges[1::2]
    numbers = np.zeros(len(starts), np.uint64)
    lengths = ends - starts
    for i in range(int(lengths.max(initial=0))):
        more = lengths > i
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
