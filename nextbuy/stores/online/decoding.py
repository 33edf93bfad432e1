"""From Redis's replies to rows of features: the counterpart of `encoding`, one class per layout.

Whatever does not depend on the request is computed when a reader is made; a request then costs a
few calls per feature view, not per value.
"""

import struct
from collections.abc import Callable
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
from nextbuy.stores.online.encoding import (
    BOOL,
    BYTES,
    DOUBLE,
    FLOAT,
    INT32,
    INT64,
    SCALARS,
    STRING,
    argument,
    command,
    numbers,
    padded,
    read_timestamps,
    read_varints,
)
from nextbuy.stores.online.feature_batch import FeatureColumn, ViewRows
from nextbuy.stores.online.keys import head
from nextbuy.stores.online.layout import TEXT, RedisLayout, hash_field
from nextbuy.stores.online.request import RequestKeys, RowPositions
from nextbuy.times import MICROSECOND, NOT_SEEN_US

FIXED = {
    ValueType.DOUBLE: np.dtype([("tag", "u1"), ("value", "<f8")]),
    ValueType.FLOAT: np.dtype([("tag", "u1"), ("value", "<f4")]),
    ValueType.BOOL: np.dtype([("tag", "u1"), ("value", "?")]),
}
INTEGERS = {ValueType.INT64: np.int64, ValueType.INT32: np.int32}
TAGS = {
    ValueType.BYTES: BYTES,
    ValueType.STRING: STRING,
    ValueType.INT32: INT32,
    ValueType.INT64: INT64,
    ValueType.DOUBLE: DOUBLE,
    ValueType.FLOAT: FLOAT,
    ValueType.BOOL: BOOL,
}
"""The first byte of a serialized `Value` of each type."""
LONG: dict[ValueType, Callable[[bytes], Any]] = {
    ValueType.STRING: bytes.decode,
    ValueType.BYTES: bytes,
}
"""What makes a value of the packed layout from its bytes; `Value` messages where none is named."""
_two_u32 = struct.Struct("<II").pack


class ViewReader:
    """One feature view of a reader: its keys, and what its replies hold."""

    keys: RequestKeys
    numbers: tuple[tuple[str, ...], ...]
    """Features in the order of `ViewRows.numbers`."""
    others: tuple[str, ...]
    """Features in the order of `ViewRows.others`."""

    def __init__(self, layout: RedisLayout, title: str, key_columns: list[str]) -> None:
        self.title = title
        self.key_columns = key_columns
        """The request's columns that make the key, in the order of the join keys' names."""
        self.kinds = [kind for _, kind in layout.join_keys[: len(key_columns)]]
        self.ttl = layout.ttl // MICROSECOND if layout.ttl else None

    def decode(self, replies: list[Any], positions: RowPositions) -> ViewRows:
        """The rows of a request."""
        raise NotImplementedError


class HashViewReader(ViewReader):
    """Feast's layout: one HMGET per entity, the timestamp last."""

    def __init__(
        self, layout: RedisLayout, title: str, key_columns: list[str],
        features: dict[str, ValueType], config: RepoConfig,
    ) -> None:  # fmt: skip
        super().__init__(layout, title, key_columns)
        prefix = head([name for name, _ in layout.join_keys])
        if not key_columns:  # a view without entities has one row, of Feast's dummy entity
            prefix += _two_u32(ValueType.STRING.value, 0)
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
        fields = [hash_field(layout.name, name) for name in (*chain(*self.numbers), *self.others)]
        self._fields = (*fields, layout.timestamp_field)
        self.keys = RequestKeys(self.kinds, prefix, config.project.encode(), frame=self._around_key)

    def _around_key(self, size: int) -> tuple[bytes, bytes]:
        after = b"\r\n" + b"".join(map(argument, self._fields))
        packed = command(b"HMGET", bytes(size), *self._fields)
        return packed[: len(packed) - size - len(after)], after

    def decode(self, replies: list[Any], positions: RowPositions) -> ViewRows:
        """Decode the replies of the HMGETs."""
        width, rows, at = len(self._fields), len(replies), 0
        flat: list[bytes | None] = list(chain.from_iterable(replies))
        matrices, absent, others = [], [], []
        for kind, count in self._numeric:
            raw = list(chain.from_iterable([flat[i::width] for i in range(at, at + count)]))
            try:
                values, missing = _numbers(raw, kind)
            except _OtherTypeError:
                values, missing = self._converted(flat, kind, at, count)
            matrices.append(values.reshape(count, rows).T)
            absent.append(missing.reshape(count, rows).T)
            at += count
        for kind, name in self._others:
            try:
                others.append(_objects(flat[at::width], kind))
            except _OtherTypeError:
                raise self._misfit(name, kind, flat[at::width]) from None
            at += 1
        empty = np.empty((rows, 0), np.bool_)
        return _placed(
            read_timestamps(flat[width - 1 :: width]),
            matrices,
            np.hstack([empty, *absent]),
            others,
            positions,
        )

    def _converted(
        self, flat: list[bytes | None], kind: ValueType, at: int, count: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Numbers of which some were written under another type, if none changes by that."""
        width, target = len(self._fields), SCALARS[kind]
        columns = []
        names = next(
            names for (each, _), names in zip(self._numeric, self.numbers, strict=True)
            if each == kind
        )  # fmt: skip
        for i, name in enumerate(names, at):
            raw = flat[i::width]
            stored = [_any(each) if each else None for each in raw]
            try:
                columns.append(pa.array(stored, target))
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                raise self._misfit(name, kind, raw) from None
            pairs = zip(columns[-1].to_pylist(), stored, strict=True)
            if any(a != b or isinstance(b, bool) for a, b in pairs if b == b):
                raise self._misfit(name, kind, raw)
        column = pa.concat_arrays(columns)
        return numbers(column), np.asarray(column.is_null())

    def _misfit(self, name: str, kind: ValueType, raw: list[bytes | None]) -> NextbuyError:
        stored = next(_any(each) for each in raw if each and each[0] != TAGS[kind])
        return NextbuyError(
            f"Redis holds the {type(stored).__name__} {stored!r} of {self.title}:{name}, which is "
            f"declared {kind.name} now: it was written before the type changed. Load the view "
            "again: nextbuy materialize, or feast materialize."
        )


class PackedViewReader(ViewReader):
    """The packed layout: one key of an MGET per entity."""

    def __init__(
        self, layout: RedisLayout, title: str, key_columns: list[str],
        features: dict[str, ValueType], config: RepoConfig,
    ) -> None:  # fmt: skip
        super().__init__(layout, title, key_columns)
        if layout.packed is None:
            raise NextbuyError(f"Feature view {title!r} is not packed.")
        packed = layout.packed
        self._dtype, names = packed.dtype, packed.names
        self.keys = RequestKeys(self.kinds, packed.prefix, frame=_around_argument, bare=True)
        self.numbers = tuple(tuple(names[i] for i in block) for _, block in packed.blocks)
        self.others = tuple(names[i] for i in packed.long if names[i] in features)
        self._blocks = [kind.name for kind, _ in packed.blocks]
        self._width = sum(map(len, self.numbers))
        self._long = [(LONG.get(packed.kinds[i], _any), names[i] in features) for i in packed.long]
        unknown = np.zeros(1, packed.dtype)
        unknown["time"], unknown["missing"] = NOT_SEEN_US, True
        self._unknown = unknown.tobytes()

    def decode(self, replies: list[Any], positions: RowPositions) -> ViewRows:
        """Decode the values of the MGET."""
        unknown = self._unknown
        fixed = [row or unknown for row in replies]
        others: list[FeatureColumn] = []
        if self._long:
            fixed = [row[: len(unknown)] for row in fixed]
        rows = np.frombuffer(b"".join(fixed), self._dtype)
        if self._long:
            others = self._texts(replies, rows)
        missing = rows["missing"][:, : self._width] if self._long else rows["missing"]
        return _placed(
            rows["time"], [rows[name] for name in self._blocks], missing, others, positions
        )

    def _texts(self, replies: list[Any], rows: NDArray[Any]) -> list[FeatureColumn]:
        starts = np.full(len(replies), len(self._unknown))
        columns = []
        for i, (decode, is_requested) in enumerate(self._long):
            ends = starts + rows["lengths"][:, i]
            if is_requested:
                column = np.empty(len(replies), object)
                missing = rows["missing"][:, self._width + i].tolist()
                spans = zip(replies, missing, starts.tolist(), ends.tolist(), strict=True)
                for n, (row, is_missing, start, end) in enumerate(spans):
                    if not is_missing:
                        column[n] = decode(row[start:end])
                columns.append(FeatureColumn(column, _not_none(column)))
            starts = ends
        return columns


def _around_argument(size: int) -> tuple[bytes, bytes]:
    packed = argument(bytes(size))
    return packed[: len(packed) - size - 2], b"\r\n"


def _placed(
    times: NDArray[np.int64],
    numbers: list[NDArray[Any]],
    missing: NDArray[np.bool_],
    others: list[FeatureColumn],
    positions: RowPositions,
) -> ViewRows:
    """The rows in the order of the request."""
    if positions is None:
        return ViewRows(times, tuple(numbers), missing, tuple(others))
    return ViewRows(
        times[positions],
        tuple(matrix[positions] for matrix in numbers),
        missing[positions],
        tuple(
            FeatureColumn(column.values[positions], column.present[positions]) for column in others
        ),
    )


class _OtherTypeError(Exception):
    """A value was written when its feature had another type."""


def _numbers(raw: list[bytes | None], kind: ValueType) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Serialized `Value` messages of one numeric kind, and which of them hold nothing.

    Raises:
        _OtherTypeError: one is of another kind.
    """
    present = np.array(list(map(bool, raw)), np.bool_)
    if kind in INTEGERS:
        filled = [each or b"" for each in raw]
        matrix = padded(filled, max(map(len, filled), default=1) or 1)
        tags, values = matrix[:, 0], read_varints(matrix[:, 1:11]).astype(INTEGERS[kind])
    else:
        nothing = bytes(FIXED[kind].itemsize)
        joined = b"".join([each or nothing for each in raw])
        if len(joined) != len(raw) * len(nothing):
            raise _OtherTypeError
        fields = np.frombuffer(joined, FIXED[kind])
        tags, values = fields["tag"], fields["value"]
    if not ((tags == TAGS[kind]) == present).all():
        raise _OtherTypeError
    return values, ~present


def _objects(raw: list[bytes | None], kind: ValueType) -> FeatureColumn:
    objects = np.empty(len(raw), object)
    tag = TAGS.get(kind)
    for i, value in enumerate(raw):
        if value:
            if tag is not None and value[0] != tag:
                raise _OtherTypeError
            objects[i] = _text(value, kind) if kind in TEXT else _any(value)
    return FeatureColumn(objects, _not_none(objects))


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
