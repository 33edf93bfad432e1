"""The packed layout: one Redis string per (feature view, entity) instead of a hash field per value.

    8 bytes  event timestamp, microseconds since 1970, little endian
    1 byte   per feature: 1 where it is missing
    n bytes  the numbers, those of one type side by side (8 bytes for doubles and integers, 4 for
             floats and int32, 1 for booleans); then of each other feature its length (4 bytes)
    rest     what has a length, one after the other: text and bytes as they are, lists, times and
             whatever else Feast knows as a serialized `Value`

One MGET reads all rows of a request, and the numbers of one type are a NumPy matrix as they come.
The key holds a checksum of the view's schema: rows of another schema, or of another version of
this layout, are not found, never misread.
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

from nextbuy.stores.online import encoding

LAYOUT = 2
"""Version of the layout above; part of the checksum."""
SLOTS = {
    ValueType.DOUBLE: "<f8",
    ValueType.INT64: "<i8",
    ValueType.FLOAT: "<f4",
    ValueType.INT32: "<i4",
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
    blocks: tuple[tuple[ValueType, tuple[int, ...]], ...]
    """The types of numbers and the positions of their features, in the order of a row."""
    long: tuple[int, ...]
    """Positions of the features of varying length."""
    dtype: np.dtype[Any]
    """The fixed part of a row: `time`, `missing`, a block by the name of each type, `lengths`."""

    def keys(self, columns: Sequence[pa.Array], kinds: Sequence[ValueType]) -> pa.BinaryArray:
        """The Redis keys of entities, given their join keys in the order of their names."""
        pieces: list[pa.Array | bytes] = [self.prefix]
        for i, (column, kind) in enumerate(zip(columns, kinds, strict=True)):
            raw = encoding.key_bytes(column, kind, "join key")
            pieces += raw if i < len(columns) - 1 else raw[-1:]
        return encoding.joined(pieces, len(columns[0]) if columns else 1)

    def rows(self, columns: Sequence[pa.Array], times: NDArray[np.int64]) -> pa.BinaryArray:
        """Pack columns (in the order of `names`), one entry per row.

        A column that is neither numeric nor boolean nor text holds serialized `Value` messages.
        """
        fixed = np.zeros(len(times), self.dtype)
        fixed["time"] = times
        slot = 0
        for kind, positions in self.blocks:
            for place, i in enumerate(positions):
                column = encoding.cast(columns[i], kind, self.names[i])
                missing = ~np.asarray(column.is_valid())
                numbers = encoding.numbers(column)
                if numbers.dtype.kind == "f":
                    missing |= np.isnan(numbers)
                fixed[kind.name][:, place] = numbers
                fixed["missing"][:, slot] = missing
                slot += 1
        tails: list[pa.Array] = []
        for place, i in enumerate(self.long):
            column, kind = columns[i], self.kinds[i]
            if kind in TEXT:
                column = encoding.cast(column, kind, self.names[i])
            raw = column.cast(pa.binary()).fill_null(b"")
            lengths = np.asarray(pc.binary_length(raw))
            # A `Value` without content is a missing one.
            missing = ~np.asarray(column.is_valid()) if kind in TEXT else lengths == 0
            fixed["lengths"][:, place] = lengths
            fixed["missing"][:, slot + place] = missing
            tails.append(raw)
        head = encoding.rows_of_bytes(fixed.view(np.uint8), self.dtype.itemsize)
        return encoding.joined([head, *tails], len(times))


def packing(
    project: str, view: str, join_keys: Sequence[str], features: Sequence[tuple[str, ValueType]]
) -> Packing:
    """The packing of a feature view."""
    schema = (LAYOUT, project, view, sorted(join_keys), [(n, k.name) for n, k in features])
    digest = hashlib.md5(repr(schema).encode(), usedforsecurity=False).digest()
    kinds = tuple(kind for _, kind in features)
    found = {kind: tuple(i for i, k in enumerate(kinds) if k == kind) for kind in SLOTS}
    blocks = tuple((kind, positions) for kind, positions in found.items() if positions)
    long = tuple(i for i, kind in enumerate(kinds) if kind not in SLOTS)
    dtype = np.dtype(
        [("time", "<i8"), ("missing", "?", (len(features),))]
        + [(kind.name, SLOTS[kind], (len(positions),)) for kind, positions in blocks]
        + [("lengths", "<u4", (len(long),))]
    )
    names = tuple(name for name, _ in features)
    return Packing(b"nb" + digest[:6], names, kinds, blocks, long, dtype)
