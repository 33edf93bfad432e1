"""Replies to rows of features: the reading side of `writer`, one class per layout.

What can be worked out before a request comes is worked out when a reader is made; a request then
costs a few calls per feature view, not per value.
"""

import struct
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import numpy as np
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.type_map import feast_value_type_to_python_type
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError
from nextbuy.stores.online.block import Column, ViewRows
from nextbuy.stores.online.encoding import SECONDS
from nextbuy.stores.online.keys import Keys, Places
from nextbuy.stores.online.layout import Layout
from nextbuy.stores.online.packed import TEXT
from nextbuy.stores.online.wire import bulk, header
from nextbuy.times import MICROSECOND, NOT_SEEN_US

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
POWERS = np.uint64(1) << np.arange(0, 70, 7, dtype=np.uint64)
SHORT_STAMPS = frozenset(range(6, 13)) - {7}
"""Lengths of protobuf Timestamps whose seconds take five bytes."""
STAMP_WIDTH = max(SHORT_STAMPS)
FIVE_BYTES = np.array([True] * 4 + [False])
NO_STAMP = bytes([SECONDS, 128, 128, 128, 128, 0])
_two = struct.Struct("<II").pack


class ViewReader:
    """One feature view of a reader: its keys, and what its replies hold."""

    packed: bool
    keys: Keys
    numbers: tuple[tuple[str, ...], ...]
    """Features in the order of `ViewRows.numbers`."""
    others: tuple[str, ...]
    """Features in the order of `ViewRows.others`."""

    def __init__(self, into: Layout, title: str, asked: list[str]) -> None:
        self.title = title
        self.asked = asked
        """The request's columns that make the key, in the order of the join keys' names."""
        self.kinds = [kind for _, kind in into.join_keys[: len(asked)]]
        self.ttl = into.ttl // MICROSECOND if into.ttl else None

    def decode(self, replies: list[Any], places: Places) -> ViewRows:
        """The rows of a request."""
        raise NotImplementedError


class HashView(ViewReader):
    """Stock Feast's layout: one HMGET per entity, the timestamp last."""

    packed = False

    def __init__(
        self, into: Layout, title: str, asked: list[str], features: dict[str, ValueType],
        config: RepoConfig,
    ) -> None:  # fmt: skip
        super().__init__(into, title, asked)
        names = [name.encode() for name, _ in into.join_keys]
        prefix = struct.pack("<I", len(names)) + b"".join(
            _two(ValueType.STRING.value, len(name)) + name for name in names
        )
        if not asked:  # a view without entities has one row, of Feast's dummy entity
            prefix += _two(ValueType.STRING.value, 0)
        kinds: dict[ValueType, list[str]] = {}
        for name, kind in features.items():
            kinds.setdefault(kind, []).append(name)
        numeric = [kind for kind in kinds if kind in FIXED or kind in INTEGERS]
        self._numeric = [(kind, len(kinds[kind])) for kind in numeric]
        self._others = [
            (kind, name) for kind in kinds if kind not in numeric for name in kinds[kind]
        ]
        self.numbers = tuple(tuple(kinds[kind]) for kind in numeric)
        self.others = tuple(name for _, name in self._others)
        fields = [into.field(name) for name in (*chain(*self.numbers), *self.others)]
        fields.append(into.stamp_field)
        self._width = len(fields)
        self.keys = Keys(
            self.kinds,
            prefix,
            config.project.encode(),
            around=(header(1 + self._width + 1) + bulk(b"HMGET"), b"".join(map(bulk, fields))),
        )

    def decode(self, replies: list[Any], places: Places) -> ViewRows:
        """Decode the replies of the HMGETs."""
        width, rows, at = self._width, len(replies), 0
        flat: list[bytes | None] = list(chain.from_iterable(replies))
        matrices, absent, others = [], [], []
        for kind, count in self._numeric:
            raw = list(chain.from_iterable([flat[i::width] for i in range(at, at + count)]))
            values, missing = _numbers(raw, kind)
            matrices.append(values.reshape(count, rows).T)
            absent.append(missing.reshape(count, rows).T)
            at += count
        for kind, _ in self._others:
            others.append(_objects(flat[at::width], kind))
            at += 1
        empty = np.empty((rows, 0), np.bool_)
        return _placed(
            stamps(flat[width - 1 :: width]), matrices, np.hstack([empty, *absent]), others, places
        )


class PackedView(ViewReader):
    """The packed layout: one key of an MGET per entity."""

    packed = True

    def __init__(
        self, into: Layout, title: str, asked: list[str], features: dict[str, ValueType],
        config: RepoConfig,
    ) -> None:  # fmt: skip
        super().__init__(into, title, asked)
        if into.packing is None:
            raise NextbuyError(f"Feature view {title!r} is not packed.")
        packing = self._packing = into.packing
        names = packing.names
        self.keys = Keys(self.kinds, packing.prefix, bare=True)
        self.numbers = tuple(tuple(names[i] for i in block) for _, block in packing.blocks)
        self.others = tuple(names[i] for i in packing.long if names[i] in features)
        self._blocks = [kind.name for kind, _ in packing.blocks]
        self._width = sum(map(len, self.numbers))
        self._long = [
            (LONG.get(packing.kinds[i], _any), names[i] in features) for i in packing.long
        ]
        nothing = np.zeros(1, packing.dtype)
        nothing["time"], nothing["missing"] = NOT_SEEN_US, True
        self._nothing = nothing.tobytes()

    def decode(self, replies: list[Any], places: Places) -> ViewRows:
        """Decode the values of the MGET."""
        nothing = self._nothing
        fixed = [row or nothing for row in replies]
        others: list[Column] = []
        if self._long:
            fixed = [row[: len(nothing)] for row in fixed]
        rows = np.frombuffer(b"".join(fixed), self._packing.dtype)
        if self._long:
            others = self._texts(replies, rows)
        missing = rows["missing"][:, : self._width] if self._long else rows["missing"]
        return _placed(rows["time"], [rows[name] for name in self._blocks], missing, others, places)

    def _texts(self, replies: list[Any], rows: NDArray[Any]) -> list[Column]:
        starts = np.full(len(replies), len(self._nothing))
        found = []
        for place, (take, wanted) in enumerate(self._long):
            ends = starts + rows["lengths"][:, place]
            if wanted:
                column = np.empty(len(replies), object)
                missing = rows["missing"][:, self._width + place].tolist()
                spans = zip(replies, missing, starts.tolist(), ends.tolist(), strict=True)
                for n, (row, lacks, start, end) in enumerate(spans):
                    if not lacks:
                        column[n] = take(row[start:end])
                found.append(Column(column, _not_none(column)))
            starts = ends
        return found


def _placed(
    times: NDArray[np.int64],
    numbers: list[NDArray[Any]],
    missing: NDArray[np.bool_],
    others: list[Column],
    places: Places,
) -> ViewRows:
    """The rows in the order of the request."""
    if places is None:
        return ViewRows(times, tuple(numbers), missing, tuple(others))
    return ViewRows(
        times[places],
        tuple(matrix[places] for matrix in numbers),
        missing[places],
        tuple(Column(column.values[places], column.present[places]) for column in others),
    )


def stamps(raw: Sequence[bytes | None]) -> NDArray[np.int64]:
    """Protobuf Timestamps in microseconds; NOT_SEEN_US where there is none."""
    lengths = {len(stamp) for stamp in raw if stamp is not None}
    if not lengths:
        return np.full(len(raw), NOT_SEEN_US)
    if not lengths <= SHORT_STAMPS:
        return np.array([_stamp(stamp) for stamp in raw], np.int64)
    matrix = _padded([NO_STAMP if stamp is None else stamp for stamp in raw], STAMP_WIDTH)
    # Seconds from 1978 to 3058 take five bytes; nanoseconds follow, or nothing.
    plain = (matrix[:, 1:6] >= 128) == FIVE_BYTES
    if not plain.all() or not (matrix[:, 0] == SECONDS).all():
        return np.array([_stamp(stamp) for stamp in raw], np.int64)
    times = _varints(matrix[:, 1:6]) * 1_000_000
    if lengths != {6}:
        times += _varints(matrix[:, 7:]) // 1000
    if None in raw:
        times[[stamp is None for stamp in raw]] = NOT_SEEN_US
    return times


def _stamp(raw: bytes | None) -> int:
    return NOT_SEEN_US if raw is None else Timestamp.FromString(raw).ToMicroseconds()


def _padded(raw: list[bytes], width: int) -> NDArray[np.uint8]:
    """Messages side by side, filled up with zeros: shape (messages, width)."""
    filled = b"".join([each.ljust(width, b"\0") for each in raw])
    return np.frombuffer(filled, np.uint8).reshape(-1, width)


def _varints(matrix: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Protobuf varints, one in each row; what follows them is zero."""
    parts = (matrix & 0x7F).astype(np.uint64)
    return (parts @ POWERS[: matrix.shape[1]]).view(np.int64)


def _numbers(raw: list[bytes | None], kind: ValueType) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Serialized `Value` messages of one numeric kind, and which of them hold nothing."""
    present = np.array(list(map(bool, raw)), np.bool_)
    if kind in INTEGERS:
        filled = [each or b"" for each in raw]
        matrix = _padded(filled, max(map(len, filled), default=1) or 1)
        return _varints(matrix[:, 1:]).astype(INTEGERS[kind]), ~present
    nothing = bytes(FIXED[kind].itemsize)
    joined = b"".join([each or nothing for each in raw])
    return np.frombuffer(joined, FIXED[kind])["value"], ~present


def _objects(raw: list[bytes | None], kind: ValueType) -> Column:
    objects = np.empty(len(raw), object)
    for i, value in enumerate(raw):
        if value:
            objects[i] = _text(value, kind) if kind in TEXT else _any(value)
    return Column(objects, _not_none(objects))


def _not_none(objects: NDArray[Any]) -> NDArray[np.bool_]:
    """Feast writes a missing time as a message with a number that stands for it."""
    return np.array([each is not None for each in objects], np.bool_)


def _text(value: bytes, kind: ValueType) -> str | bytes:
    """The content of a `Value` of text: tag, length as a varint, bytes."""
    at = 1
    while value[at] >= 128:
        at += 1
    return value[at + 1 :].decode() if kind == ValueType.STRING else value[at + 1 :]


def _any(value: bytes) -> Any:
    return feast_value_type_to_python_type(Value.FromString(value))
