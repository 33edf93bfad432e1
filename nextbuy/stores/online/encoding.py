"""From Arrow columns to the bytes that Redis holds, column by column.

Every function returns a `pa.BinaryArray` with one entry per row. In Feast's layout a missing value
is the empty string, as Feast writes it (a protobuf `Value` without content).
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.type_map import python_values_to_proto_values
from feast.types import FeastType
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp
from hiredis import pack_command
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError
from nextbuy.stores.online.keys import head
from nextbuy.stores.online.layout import TEXT, PackedLayout
from nextbuy.times import NOT_SEEN_US, SECOND

# Tags of the fields of Feast's `Value` message: number * 8 + wire type.
BYTES, STRING, INT32, INT64, DOUBLE, FLOAT, BOOL = 0x0A, 0x12, 0x18, 0x20, 0x29, 0x35, 0x38
SECONDS, NANOS = 0x08, 0x10  # of google.protobuf.Timestamp
POWERS = np.uint64(1) << np.arange(0, 70, 7, dtype=np.uint64)
SHORT_TIMESTAMPS = frozenset(range(6, 13)) - {7}
"""Lengths of protobuf Timestamps whose seconds take five bytes."""
TIMESTAMP_WIDTH = max(SHORT_TIMESTAMPS)
FIVE_BYTES = np.array([True] * 4 + [False])
NO_TIMESTAMP = bytes([SECONDS, 128, 128, 128, 128, 0])

SCALARS: dict[ValueType, pa.DataType] = {
    ValueType.BYTES: pa.binary(),
    ValueType.STRING: pa.string(),
    ValueType.INT32: pa.int32(),
    ValueType.INT64: pa.int64(),
    ValueType.DOUBLE: pa.float64(),
    ValueType.FLOAT: pa.float32(),
    ValueType.BOOL: pa.bool_(),
}
"""Types that are encoded here; the others go through Feast's own conversion."""


def command(*arguments: bytes | str) -> bytes:
    """A Redis command as it is sent.

    >>> command(b"GET", b"a")
    b'*2\\r\\n$3\\r\\nGET\\r\\n$1\\r\\na\\r\\n'
    """
    packed: bytes = pack_command(arguments)  # type: ignore[arg-type]  # declared: one argument
    return packed


def argument(content: bytes) -> bytes:
    """One argument as a part of a command.

    >>> argument(b"a")
    b'$1\\r\\na\\r\\n'
    """
    _, _, packed = command(content).partition(b"\r\n")
    return packed


def values(column: pa.Array, dtype: FeastType, name: str) -> pa.BinaryArray:
    """A feature's values as serialized `Value` messages.

    Raises:
        NextbuyError: the column does not hold what the feature view declares.
    """
    kind = dtype.to_value_type()
    if kind not in SCALARS:
        return _through_feast(column, kind, name)
    column = cast(column, kind, name)
    present = np.asarray(column.is_valid())
    match kind:
        case ValueType.STRING | ValueType.BYTES:
            return _texts(column, STRING if kind == ValueType.STRING else BYTES)
        case ValueType.DOUBLE | ValueType.FLOAT:
            raw = numbers(column)
            tag = DOUBLE if kind == ValueType.DOUBLE else FLOAT
            return _fixed(tag, raw, present & ~np.isnan(raw))  # to Feast NaN is missing
        case ValueType.BOOL:
            return _fixed(BOOL, numbers(column.cast(pa.uint8())), present)
        case _:
            tag = INT32 if kind == ValueType.INT32 else INT64
            return varints(tag, numbers(column).astype(np.int64), present)


def cast(column: pa.Array, kind: ValueType, name: str) -> pa.Array:
    """A column as the Arrow type of its declared Feast type, if no value is lost by that.

    Raises:
        NextbuyError: a value would change.
    """
    target = SCALARS[kind]
    if column.type == target:
        return column
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    text = pa.types.is_string(target) or pa.types.is_binary(target)
    if text != (pa.types.is_string(column.type) or pa.types.is_binary(column.type)) and not (
        pa.types.is_null(column.type)
    ):
        raise _misfit(name, column.type, kind, "text is not turned into numbers, nor back")
    try:
        return column.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise _misfit(name, column.type, kind, str(error)) from None


def timestamps(times: NDArray[np.int64]) -> pa.BinaryArray:
    """Microseconds since 1970 as serialized protobuf Timestamps."""
    seconds, rest = np.divmod(times, SECOND)
    return pc.binary_join_element_wise(
        varints(SECONDS, seconds, seconds != 0), varints(NANOS, rest * 1000, rest != 0), b""
    )


def read_timestamps(raw: Sequence[bytes | None]) -> NDArray[np.int64]:
    """Protobuf Timestamps in microseconds; NOT_SEEN_US where one is missing."""
    lengths = {len(each) for each in raw if each is not None}
    if not lengths:
        return np.full(len(raw), NOT_SEEN_US)
    if not lengths <= SHORT_TIMESTAMPS:
        return np.array([_timestamp(each) for each in raw], np.int64)
    matrix = padded([NO_TIMESTAMP if each is None else each for each in raw], TIMESTAMP_WIDTH)
    # Seconds from 1978 to 3058 take five bytes; nanoseconds follow, or nothing.
    plain = (matrix[:, 1:6] >= 128) == FIVE_BYTES
    if not plain.all() or not (matrix[:, 0] == SECONDS).all():
        return np.array([_timestamp(each) for each in raw], np.int64)
    times = read_varints(matrix[:, 1:6]) * SECOND
    if lengths != {6}:
        times += read_varints(matrix[:, 7:]) // 1000
    if None in raw:
        times[[each is None for each in raw]] = NOT_SEEN_US
    return times


def _timestamp(raw: bytes | None) -> int:
    return NOT_SEEN_US if raw is None else Timestamp.FromString(raw).ToMicroseconds()


def padded(raw: list[bytes], width: int) -> NDArray[np.uint8]:
    """Messages side by side, filled up with zeros: shape (messages, width)."""
    filled = b"".join([each.ljust(width, b"\0") for each in raw])
    return np.frombuffer(filled, np.uint8).reshape(-1, width)


def read_varints(matrix: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Protobuf varints, one in each row; what follows them is zero."""
    parts = (matrix & 0x7F).astype(np.uint64)
    return (parts @ POWERS[: matrix.shape[1]]).view(np.int64)


_head = cache(head)  # the same for every batch of a view


def entity_keys(
    columns: Sequence[pa.Array], names: Sequence[str], kinds: Sequence[ValueType], project: str
) -> pa.BinaryArray:
    """The Redis keys of Feast's hashes (entity key serialization 3, then the project).

    Raises:
        NextbuyError: a key has a type that Feast cannot serialize.
    """
    order = sorted(range(len(names)), key=lambda i: names[i])
    pieces: list[pa.Array | bytes] = [_head(tuple(names))]
    for i in order:
        pieces += key_bytes(columns[i], kinds[i], names[i])
    pieces.append(project.encode())
    return joined(pieces, len(columns[0]) if columns else 1)


def key_values(columns: Sequence[pa.Array], kinds: Sequence[ValueType]) -> pa.BinaryArray:
    """The values of entities' keys, as they stand in the keys of the hashes.

    The join keys come in the order of their names.
    """
    pieces: list[pa.Array | bytes] = []
    for column, kind in zip(columns, kinds, strict=True):
        pieces += key_bytes(column, kind, "join key")
    return joined(pieces, len(columns[0]))


def key_bytes(column: pa.Array, kind: ValueType, name: str) -> list[pa.Array | bytes]:
    """The pieces of one join key's value: its type and length, then its bytes (the last piece)."""
    if kind not in (ValueType.STRING, ValueType.BYTES, ValueType.INT32, ValueType.INT64):
        raise NextbuyError(
            f"The join key {name!r} is of type {kind.name}; Feast can only look up strings, bytes "
            "and integers."
        )
    column = cast(column, kind, name)
    if kind in (ValueType.INT32, ValueType.INT64):
        raw = numbers(column)
        return [
            _u32(kind.value) + _u32(raw.itemsize),
            rows_of_bytes(raw.view(np.uint8), raw.itemsize),
        ]
    texts = column.cast(pa.binary())
    lengths = np.asarray(pc.binary_length(texts)).astype("<u4")
    return [_u32(kind.value), rows_of_bytes(lengths.view(np.uint8), 4), texts]


def joined(pieces: Sequence[pa.Array | bytes], rows: int, separator: bytes = b"") -> pa.BinaryArray:
    """Pieces side by side, row by row; a constant piece is repeated."""
    arrays = [p if isinstance(p, pa.Array) else pa.scalar(p, pa.binary()) for p in pieces]
    result = pc.binary_join_element_wise(*arrays, pa.scalar(separator, pa.binary()))
    if isinstance(result, pa.Scalar):  # nothing but constants
        return pa.array([result.as_py()] * rows, pa.binary())
    return result


def varints(tag: int, integers: NDArray[np.int64], present: NDArray[np.bool_]) -> pa.BinaryArray:
    """Protobuf fields of varints; a negative number takes all ten bytes."""
    bits = np.ascontiguousarray(integers).view(np.uint64)
    lengths = np.ones(len(bits), np.int64)
    for shift in range(7, 64, 7):
        more = (bits >> np.uint64(shift)) != 0
        if not more.any():
            break
        lengths += more
    width = int(lengths.max(initial=1))
    matrix = np.empty((len(bits), 1 + width), np.uint8)
    matrix[:, 0] = tag
    for i in range(width):
        byte = (bits >> np.uint64(7 * i)).astype(np.uint8) & np.uint8(0x7F)
        matrix[:, 1 + i] = byte | ((lengths > i + 1).astype(np.uint8) << np.uint8(7))
    return _ragged(matrix, np.where(present, lengths + 1, 0))


def _fixed(tag: int, raw: NDArray[np.generic], present: NDArray[np.bool_]) -> pa.BinaryArray:
    matrix = np.empty((len(raw), 1 + raw.itemsize), np.uint8)
    matrix[:, 0] = tag
    matrix[:, 1:] = raw.view(np.uint8).reshape(len(raw), raw.itemsize)
    return _ragged(matrix, np.where(present, matrix.shape[1], 0))


def _texts(column: pa.Array, tag: int) -> pa.BinaryArray:
    present = np.asarray(column.is_valid())
    texts = column.cast(pa.binary()).fill_null(b"")
    lengths = np.asarray(pc.binary_length(texts)).astype(np.int64)
    return pc.binary_join_element_wise(varints(tag, lengths, present), texts, b"")


def _ragged(matrix: NDArray[np.uint8], lengths: NDArray[np.int64]) -> pa.BinaryArray:
    """The first `lengths[i]` bytes of each row of a matrix."""
    offsets = np.zeros(len(matrix) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    if len(matrix) and lengths.min() == matrix.shape[1]:
        data = matrix
    else:
        data = matrix[np.arange(matrix.shape[1]) < lengths[:, None]]
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.binary(), len(matrix), buffers)


def rows_of_bytes(data: NDArray[np.uint8], width: int) -> pa.BinaryArray:
    """Bytes in rows of equal width."""
    matrix = data.reshape(-1, width)
    return _ragged(matrix, np.full(len(matrix), width))


def numbers(column: pa.Array) -> NDArray[np.generic]:
    """A numeric column as NumPy; what is missing is 0."""
    if column.null_count:
        column = column.fill_null(pa.scalar(0).cast(column.type))
    return np.ascontiguousarray(column.to_numpy(zero_copy_only=False))


def _u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


def _through_feast(column: pa.Array, kind: ValueType, name: str) -> pa.BinaryArray:
    try:
        protos = python_values_to_proto_values(column.to_numpy(zero_copy_only=False), kind)
    except Exception as error:  # Feast raises assertion, type and value errors alike
        raise _misfit(name, column.type, kind, str(error)) from None
    return pa.array([proto.SerializeToString() for proto in protos], pa.binary())


def _misfit(name: str, actual: pa.DataType, kind: ValueType, why: str) -> NextbuyError:
    return NextbuyError(
        f"The column {name!r} is {actual}, but its feature view declares {kind.name}: {why}. "
        "Correct the schema or the table."
    )


def packed_keys(
    packed: PackedLayout, columns: Sequence[pa.Array], kinds: Sequence[ValueType]
) -> pa.BinaryArray:
    """The keys of the packed layout, given the join keys in the order of their names."""
    pieces: list[pa.Array | bytes] = [packed.prefix]
    for i, (column, kind) in enumerate(zip(columns, kinds, strict=True)):
        raw = key_bytes(column, kind, "join key")
        pieces += raw if i < len(columns) - 1 else raw[-1:]
    return joined(pieces, len(columns[0]) if columns else 1)


def packed_rows(
    packed: PackedLayout, columns: Sequence[pa.Array], times: NDArray[np.int64]
) -> pa.BinaryArray:
    """Pack columns (in the order of `packed.names`), one entry per row.

    A column that is neither numeric nor boolean nor text holds serialized `Value` messages.
    """
    fixed = np.zeros(len(times), packed.dtype)
    fixed["time"] = times
    slot = 0
    for kind, positions in packed.blocks:
        for at, i in enumerate(positions):
            column = cast(columns[i], kind, packed.names[i])
            missing = ~np.asarray(column.is_valid())
            values = numbers(column)
            if values.dtype.kind == "f":
                missing |= np.isnan(values)
            fixed[kind.name][:, at] = values
            fixed["missing"][:, slot] = missing
            slot += 1
    tails: list[pa.Array] = []
    for at, i in enumerate(packed.long):
        column, kind = columns[i], packed.kinds[i]
        if kind in TEXT:
            column = cast(column, kind, packed.names[i])
        raw = column.cast(pa.binary()).fill_null(b"")
        lengths = np.asarray(pc.binary_length(raw))
        # A `Value` without content is a missing one.
        missing = ~np.asarray(column.is_valid()) if kind in TEXT else lengths == 0
        fixed["lengths"][:, at] = lengths
        fixed["missing"][:, slot + at] = missing
        tails.append(raw)
    head = rows_of_bytes(fixed.view(np.uint8), packed.dtype.itemsize)
    return joined([head, *tails], len(times))
