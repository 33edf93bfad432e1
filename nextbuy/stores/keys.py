"""The Redis keys of a request, as bytes on the wire.

In most requests one join key differs from row to row and the others, the shopper's, do not. Then
all keys share their beginning and their end, and a key costs one concatenation.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from feast.value_type import ValueType
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError
from nextbuy.stores.wire import bulk

Column = Sequence[Any]
Places = NDArray[np.intp] | None
"""For each row of a request, which of the distinct keys is its own. None: each row its own, or the
one key is that of all rows."""
TAKES = {ValueType.STRING: "str", ValueType.BYTES: "bytes"}
_two = struct.Struct("<II").pack


class Keys:
    """Makes the keys of one feature view.

    Args:
        join_keys: names and types, in the order of their names.
        prefix: what each key begins with.
        suffix: what each key ends with.
        bare: the last join key comes without its type and length, as in the packed layout.
        around: what stands before and after each key on the wire.
    """

    def __init__(
        self,
        join_keys: Sequence[tuple[str, ValueType]],
        prefix: bytes,
        suffix: bytes = b"",
        *,
        bare: bool = False,
        around: tuple[bytes, bytes] = (b"", b""),
    ) -> None:
        self._prefix, self._suffix = prefix, suffix
        self._open, self._close = around
        self._raw = [_encoder(kind, name) for name, kind in join_keys]
        self._kinds = [kind.value for _, kind in join_keys]
        self._bare = len(join_keys) - 1 if bare else None

    def on_wire(self, columns: Sequence[Column], rows: int) -> tuple[bytes, int, Places]:
        """The distinct keys of a request, framed, how many they are, and whose they are.

        A column of one value stands for all rows. A null makes a key that no row has.

        Raises:
            NextbuyError: a value is not of its join key's type.
        """
        varying = [i for i, column in enumerate(columns) if len(column) != 1]
        columns, places = _distinct(columns, varying, rows)
        raw = [encode(column) for encode, column in zip(self._raw, columns, strict=True)]
        if len(varying) != 1 or any(None in each for each in raw):
            keys = self._each(raw)
            return b"".join(keys), len(keys), places
        (place,) = varying
        before = self._prefix + self._constant(raw[:place], 0)
        after = self._constant(raw[place + 1 :], place + 1) + self._suffix
        heads = {}
        for size in set(map(len, raw[place])):
            start = before + self._marker(place, size)
            length = len(start) + size + len(after)
            heads[size] = b"%b$%d\r\n%b" % (self._open, length, start)
        end = after + b"\r\n" + self._close
        keys = [heads[len(each)] + each for each in raw[place]]
        return (end.join(keys) + end if keys else b""), len(keys), places

    def _marker(self, place: int, size: int) -> bytes:
        return b"" if place == self._bare else _two(self._kinds[place], size)

    def _constant(self, raw: Sequence[Sequence[bytes]], first: int) -> bytes:
        return b"".join(
            self._marker(place, len(value)) + value for place, (value,) in enumerate(raw, first)
        )

    def _each(self, raw: list[list[Any]]) -> list[bytes]:
        """Key by key, whatever varies or is null."""
        count = 0 if any(not each for each in raw) else max(map(len, raw), default=1)
        spread = [each * count if len(each) == 1 else each for each in raw]
        entities = zip(*spread, strict=True) if spread else [()]
        return [
            self._open + bulk(b"" if None in entity else self._one(entity)) + self._close
            for entity in entities
        ]

    def _one(self, entity: Sequence[bytes]) -> bytes:
        return self._prefix + self._constant([[value] for value in entity], 0) + self._suffix


def _distinct(
    columns: Sequence[Column], varying: list[int], rows: int
) -> tuple[Sequence[Column], Places]:
    """Each entity once; of the columns that do not vary, their one value."""
    if not varying:
        return columns, None
    entities: Any
    if len(varying) == 1:
        entities = columns[varying[0]]
    else:
        entities = list(zip(*(columns[i] for i in varying), strict=True))
    distinct = dict.fromkeys(entities)
    if len(distinct) == rows:
        return columns, None
    numbers = {entity: number for number, entity in enumerate(distinct)}
    places = np.array([numbers[entity] for entity in entities], np.intp)
    if len(varying) == 1:
        split = iter([list(distinct)])
    else:
        split = iter([list(column) for column in zip(*distinct, strict=True)])
    return [next(split) if i in varying else c for i, c in enumerate(columns)], places


def _encoder(kind: ValueType, name: str) -> Callable[[Column], list[Any]]:
    """What turns a column of one join key into bytes; None for a null."""
    one: Callable[[Any], bytes]
    match kind:
        case ValueType.STRING:
            one = str.encode
        case ValueType.BYTES:
            one = bytes.__bytes__
        case ValueType.INT64:
            one = struct.Struct("<q").pack
        case ValueType.INT32:
            one = struct.Struct("<i").pack
        case _:
            raise NextbuyError(f"The join key {name!r} is of type {kind.name}, which has no key.")

    def encoder(values: Column) -> list[Any]:
        try:
            return list(map(one, values))
        except (TypeError, struct.error):
            pass  # a null, or what does not belong there
        try:
            return [None if value is None else one(value) for value in values]
        except (TypeError, struct.error) as error:
            takes = TAKES.get(kind, "int")
            raise NextbuyError(f"The join key {name!r} takes {takes}: {error}.") from None

    return encoder
