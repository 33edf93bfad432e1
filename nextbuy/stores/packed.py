"""The packed layout: one Redis string per (feature view, entity) instead of a hash field per value.

    8 bytes  event timestamp, microseconds since 1970, little endian
    1 byte   per feature: 1 where it is present
    n bytes  per feature, in the view's order: its number (8 bytes for integers and doubles, 4 for
             floats and int32, 1 for booleans), or for all else its length (4 bytes)
    rest     what has a length, one after the other: text and bytes as they are, lists, times and
             whatever else Feast knows as a serialized `Value`

One MGET reads all rows of a request, and rows without text are a NumPy array as they come. The
key holds a checksum of the view's schema: rows of another schema are not found, never misread.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.value_type import ValueType
from numpy.typing import NDArray

from nextbuy.stores import encode

LENGTH = "<u4"
SLOTS = {
    ValueType.INT32: "<i4",
    ValueType.INT64: "<i8",
    ValueType.FLOAT: "<f4",
    ValueType.DOUBLE: "<f8",
    ValueType.BOOL: "?",
}
TEXT = (ValueType.STRING, ValueType.BYTES)


@dataclass(frozen=True)
class Packing:
    """How the rows of one feature view are packed."""

    prefix: bytes
    """What each key begins with."""
    names: tuple[str, ...]
    kinds: tuple[ValueType, ...]
    dtype: np.dtype[Any]
    """The fixed part of a row."""

    @property
    def long(self) -> list[int]:
        """Positions of the features of varying length."""
        return [i for i, kind in enumerate(self.kinds) if kind not in SLOTS]

    def keys(self, columns: Sequence[pa.Array], kinds: Sequence[ValueType]) -> pa.BinaryArray:
        """The Redis keys of entities, given their join keys in the order of their names."""
        pieces: list[pa.Array | bytes] = [self.prefix]
        for i, (column, kind) in enumerate(zip(columns, kinds, strict=True)):
            raw = encode.key_bytes(column, kind, "join key")
            pieces += raw if i < len(columns) - 1 else raw[-1:]
        return encode.joined(pieces, len(columns[0]) if columns else 1)

    def rows(self, columns: Sequence[pa.Array], times: NDArray[np.int64]) -> pa.BinaryArray:
        """Pack columns (in the order of `names`), one entry per row.

        A column that is neither numeric nor boolean nor text holds serialized `Value` messages.
        """
        fixed = np.zeros(len(times), self.dtype)
        fixed["time"] = times
        tails: list[pa.Array] = []
        for i, (column, kind, name) in enumerate(zip(columns, self.kinds, self.names, strict=True)):
            if kind in SLOTS or kind in TEXT:
                column = encode.cast(column, kind, name)
            present = np.asarray(column.is_valid())
            if kind not in SLOTS:
                raw = column.cast(pa.binary()).fill_null(b"")
                lengths = np.asarray(pc.binary_length(raw))
                fixed[f"v{i}"] = lengths
                tails.append(raw)
                if kind not in TEXT:
                    present = lengths != 0  # a `Value` without content is a missing one
            else:
                numbers = encode.numbers(column)
                if numbers.dtype.kind == "f":
                    present = present & ~np.isnan(numbers)
                fixed[f"v{i}"] = numbers
            fixed["present"][:, i] = present
        head = encode.rows_of_bytes(fixed.view(np.uint8), self.dtype.itemsize)
        return encode.joined([head, *tails], len(times))


def packing(
    project: str, view: str, join_keys: Sequence[str], features: Sequence[tuple[str, ValueType]]
) -> Packing:
    """The packing of a feature view."""
    schema = repr((project, view, sorted(join_keys), [(n, k.name) for n, k in features]))
    dtype = np.dtype(
        [("time", "<i8"), ("present", "?", (len(features),))]
        + [(f"v{i}", SLOTS.get(kind, LENGTH)) for i, (_, kind) in enumerate(features)]
    )
    return Packing(
        prefix=b"nb" + hashlib.md5(schema.encode(), usedforsecurity=False).digest()[:6],
        names=tuple(name for name, _ in features),
        kinds=tuple(kind for _, kind in features),
        dtype=dtype,
    )
