"""Where the rows of a feature view lie in Redis: Feast's hashes and the packed layout beside them.

Feast's layout is one hash per entity and a field per value. The packed layout is one Redis string
per (feature view, entity):

    8 bytes  event timestamp, microseconds since 1970, little endian
    1 byte   per feature: 1 where it is missing
    n bytes  the numbers, those of one type side by side (8 bytes for doubles and integers, 4 for
             floats and int32, 1 for booleans); then of each other feature its length (4 bytes)
    rest     what has a length, one after the other: text and bytes as they are, lists, times and
             any other type of Feast as a serialized `Value`

One MGET reads all rows of a request, and the numbers of one type are a NumPy matrix as they come.
The key holds a checksum of the view's schema: rows of another schema, or of another version of
this layout, are not found, and never misread.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import _mmh3, compute_versioned_name
from feast.repo_config import RepoConfig
from feast.value_type import ValueType
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError

PACKED_VERSION = 2
"""Version of the packed layout; part of the checksum."""
SLOTS = {
    ValueType.DOUBLE: "<f8",
    ValueType.INT64: "<i8",
    ValueType.FLOAT: "<f4",
    ValueType.INT32: "<i4",
    ValueType.BOOL: "?",
}
TEXT = (ValueType.STRING, ValueType.BYTES)


@dataclass(frozen=True)
class PackedLayout:
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


@dataclass(frozen=True)
class RedisLayout:
    """Where the rows of one feature view go in Redis."""

    name: str
    """The view's name, with its version where versions are on."""
    join_keys: tuple[tuple[str, ValueType], ...]
    """In the order of their names."""
    features: tuple[Any, ...]
    """Feast's fields."""
    ttl: timedelta | None
    packed: PackedLayout | None
    """None: only the hashes are written."""

    @property
    def timestamp_field(self) -> bytes:
        """The hash field of the event timestamp."""
        return f"_ts:{self.name}".encode()

    def field(self, feature: str) -> bytes:
        """The hash field of a feature."""
        field: bytes = _mmh3(f"{self.name}:{feature}")
        return field


def redis_layout(config: RepoConfig, view: Any) -> RedisLayout:
    """The layout of a feature view under the online store's configuration."""
    name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    join_keys = sorted(
        (field.name, field.dtype.to_value_type()) for field in getattr(view, "entity_columns", [])
    )
    packed = None
    if config.online_store.packed and isinstance(view, FeatureView):
        packed = packed_layout(
            config.project,
            name,
            [key for key, _ in join_keys],
            [(field.name, field.dtype.to_value_type()) for field in view.features],
        )
    return RedisLayout(
        name, tuple(join_keys), tuple(view.features), getattr(view, "ttl", None) or None, packed
    )


def packed_layout(
    project: str, view: str, join_keys: Sequence[str], features: Sequence[tuple[str, ValueType]]
) -> PackedLayout:
    """The packed layout of a feature view."""
    schema = (PACKED_VERSION, project, view, sorted(join_keys), [(n, k.name) for n, k in features])
    digest = hashlib.md5(repr(schema).encode(), usedforsecurity=False).digest()
    kinds = tuple(kind for _, kind in features)
    positions = {kind: tuple(i for i, k in enumerate(kinds) if k == kind) for kind in SLOTS}
    blocks = tuple((kind, columns) for kind, columns in positions.items() if columns)
    long = tuple(i for i, kind in enumerate(kinds) if kind not in SLOTS)
    dtype = np.dtype(
        [("time", "<i8"), ("missing", "?", (len(features),))]
        + [(kind.name, SLOTS[kind], (len(columns),)) for kind, columns in blocks]
        + [("lengths", "<u4", (len(long),))]
    )
    names = tuple(name for name, _ in features)
    return PackedLayout(b"nb" + digest[:6], names, kinds, blocks, long, dtype)


def clock_key(project: str) -> bytes:
    """The Redis key of the newest event timestamp that was written for a project."""
    return b"nextbuy:clock:" + project.encode()


# The keys of a request. In most requests one join key differs from row to row and the others, the
# shopper's, do not: then all keys share their beginning and their end.

RowPositions = NDArray[np.intp] | None
"""For each row of a request, which of the distinct keys is its own. None: each row its own, or the
one key is that of all rows."""
_two_u32 = struct.Struct("<II").pack


class KeyColumn(NamedTuple):
    """A column of a request: the bytes of one join key, or of the one value for all rows."""

    rows: list[Any]
    """Row by row; None for a null."""
    distinct: list[Any]
    positions: RowPositions
    sizes: list[int] | None
    """Lengths of the distinct values; None where there are nulls."""


class KeyEncoder:
    """Makes bytes of the values of one join key."""

    _encode: Callable[[Any], bytes]

    def __init__(self, name: str, kind: ValueType) -> None:
        self._name = name
        match kind:
            case ValueType.STRING:
                self._type, self._encode = "str", str.encode
            case ValueType.BYTES:
                self._type, self._encode = "bytes", bytes.__bytes__
            case ValueType.INT64:
                self._type, self._encode = "int", struct.Struct("<q").pack
            case ValueType.INT32:
                self._type, self._encode = "int", struct.Struct("<i").pack
            case _:
                raise NextbuyError(
                    f"The join key {name!r} is of type {kind.name}, which has no key."
                )

    def __call__(self, values: Sequence[Any]) -> KeyColumn:
        """Encode a column.

        Raises:
            NextbuyError: a value is not of the join key's type.
        """
        nulls = False
        try:
            rows: list[Any] = list(map(self._encode, values))
        except (TypeError, struct.error):  # a null, or a value of another type
            nulls = True
            rows = self._with_nulls(values)
        distinct, positions = rows, None
        if len(set(values)) < len(rows):
            distinct, positions = _numbered(rows)
        return KeyColumn(rows, distinct, positions, None if nulls else list(map(len, distinct)))

    def _with_nulls(self, values: Sequence[Any]) -> list[Any]:
        try:
            return [None if value is None else self._encode(value) for value in values]
        except (TypeError, struct.error) as error:
            raise NextbuyError(
                f"The join key {self._name!r} takes {self._type}: {error}."
            ) from None


class RequestKeys:
    """Makes the keys that a request reads of one feature view, framed for Redis.

    Args:
        kinds: the join keys' types, in the order of their names.
        prefix: what each key begins with.
        suffix: what each key ends with.
        frame: what stands before and after a key of so many bytes in a command.
        bare: the last join key comes without its type and length, as in the packed layout.
    """

    def __init__(
        self,
        kinds: Sequence[ValueType],
        prefix: bytes,
        suffix: bytes = b"",
        *,
        frame: Callable[[int], tuple[bytes, bytes]],
        bare: bool = False,
    ) -> None:
        self._prefix, self._suffix = prefix, suffix
        self._frame = lru_cache(maxsize=1024)(frame)
        self._format = lru_cache(maxsize=1024)(self._escaped)
        self._kinds: list[int | None] = [kind.value for kind in kinds]
        if bare and kinds:
            self._kinds[-1] = None

    def __call__(self, columns: Sequence[KeyColumn]) -> tuple[bytes, int, RowPositions]:
        """The distinct keys of a request, their number, and which of them is each row's.

        A column of one value stands for all rows. A null makes a key that no row has.
        """
        varying = [i for i, column in enumerate(columns) if len(column.rows) != 1]
        nulls = [column for column in columns if column.sizes is None]
        if nulls or not columns or len(varying) > 1:
            return self._row_by_row([column.rows for column in columns])
        at = varying[0] if varying else 0
        _, distinct, positions, sizes = columns[at]
        before, after, kind = self._prefix, self._suffix, self._kinds[at]
        if at:
            before += self._join([column.rows[0] for column in columns[:at]])
        if at + 1 < len(columns):
            after = self._join([column.rows[0] for column in columns[at + 1 :]], at + 1) + after
        formats = {size: self._format(before, kind, size, after) for size in set(sizes or ())}
        # One format for all keys: a loop over them would take three times as long.
        template = b"".join(map(formats.__getitem__, sizes or ()))
        return template % tuple(distinct), len(distinct), positions

    def _escaped(self, before: bytes, kind: int | None, size: int, after: bytes) -> bytes:
        """The format of a key whose varying value takes `size` bytes."""
        before += _marker(kind, size)
        opening, closing = self._frame(len(before) + size + len(after))
        before, after = opening + before, after + closing
        return before.replace(b"%", b"%%") + b"%b" + after.replace(b"%", b"%%")

    def _row_by_row(self, columns: Sequence[list[Any]]) -> tuple[bytes, int, RowPositions]:
        rows = 0 if any(not column for column in columns) else max(map(len, columns), default=1)
        spread = [column * rows if len(column) == 1 else column for column in columns]
        distinct, positions = _numbered(list(zip(*spread, strict=True)) if spread else [()])
        framed = []
        for entity in distinct:
            key = b"" if None in entity else self._prefix + self._join(entity) + self._suffix
            opening, closing = self._frame(len(key))
            framed += [opening, key, closing]
        return b"".join(framed), len(distinct), None if len(distinct) == rows else positions

    def _join(self, values: Sequence[bytes], first: int = 0) -> bytes:
        kinds = self._kinds[first:]
        return b"".join(
            _marker(kind, len(raw)) + raw for kind, raw in zip(kinds, values, strict=False)
        )


def _numbered(values: Sequence[Any]) -> tuple[list[Any], NDArray[np.intp]]:
    """The distinct values in the order of their appearance, and which of them each value is."""
    numbers: dict[Any, int] = {}
    positions = [numbers.setdefault(value, len(numbers)) for value in values]
    return list(numbers), np.array(positions, np.intp)


def _marker(kind: int | None, size: int) -> bytes:
    """What stands before a join key's value: its type and its length."""
    return b"" if kind is None else _two_u32(kind, size)
