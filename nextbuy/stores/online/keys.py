"""The Redis keys of a request, as bytes on the wire.

In most requests one join key differs from row to row and the others, the shopper's, do not. Then
all keys share their beginning and their end, and a key costs one concatenation.
"""

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from feast.value_type import ValueType
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError
from nextbuy.stores.online.wire import bulk

Places = NDArray[np.intp] | None
"""For each row of a request, which of the distinct keys is its own. None: each row its own, or the
one key is that of all rows."""
_two = struct.Struct("<II").pack


class Encoded(NamedTuple):
    """A column of a request: the bytes of one join key, or of the one value for all rows."""

    rows: list[Any]
    """Row by row; None for a null."""
    distinct: list[Any]
    places: Places
    lengths: list[int] | None
    """Of the distinct values; None where there are nulls."""


class Encoder:
    """Makes bytes of the values of one join key."""

    def __init__(self, name: str, kind: ValueType) -> None:
        self._name = name
        match kind:
            case ValueType.STRING:
                self._takes, self._one = "str", str.encode
            case ValueType.BYTES:
                self._takes, self._one = "bytes", bytes.__bytes__
            case ValueType.INT64:
                self._takes, self._one = "int", struct.Struct("<q").pack
            case ValueType.INT32:
                self._takes, self._one = "int", struct.Struct("<i").pack
            case _:
                raise NextbuyError(
                    f"The join key {name!r} is of type {kind.name}, which has no key."
                )

    _one: Callable[[Any], bytes]

    def __call__(self, values: Sequence[Any]) -> Encoded:
        """Encode a column.

        Raises:
            NextbuyError: a value is not of the join key's type.
        """
        nulls = False
        try:
            rows: list[Any] = list(map(self._one, values))
        except (TypeError, struct.error):  # a null, or what does not belong there
            nulls = True
            rows = self._with_nulls(values)
        distinct, places = rows, None
        if len(set(values)) < len(rows):
            numbers: dict[Any, int] = {}
            places = np.array([numbers.setdefault(each, len(numbers)) for each in rows], np.intp)
            distinct = list(numbers)
        return Encoded(rows, distinct, places, None if nulls else list(map(len, distinct)))

    def _with_nulls(self, values: Sequence[Any]) -> list[Any]:
        try:
            return [None if value is None else self._one(value) for value in values]
        except (TypeError, struct.error) as error:
            raise NextbuyError(
                f"The join key {self._name!r} takes {self._takes}: {error}."
            ) from None


class Keys:
    """Makes the keys of one feature view.

    Args:
        kinds: the join keys' types, in the order of their names.
        prefix: what each key begins with.
        suffix: what each key ends with.
        bare: the last join key comes without its type and length, as in the packed layout.
        around: what stands before and after each key on the wire.
    """

    def __init__(
        self,
        kinds: Sequence[ValueType],
        prefix: bytes,
        suffix: bytes = b"",
        *,
        bare: bool = False,
        around: tuple[bytes, bytes] = (b"", b""),
    ) -> None:
        self._prefix, self._suffix = prefix, suffix
        self._open, self._close = around
        self._kinds = [kind.value for kind in kinds]
        self._bare = len(kinds) - 1 if bare else None

    def on_wire(self, columns: Sequence[Encoded]) -> tuple[bytes, int, Places]:
        """The distinct keys of a request, framed, how many they are, and whose they are.

        A column of one value stands for all rows. A null makes a key that no row has.
        """
        varying = [place for place, column in enumerate(columns) if len(column.rows) != 1]
        nulls = [column for column in columns if column.lengths is None]
        if nulls or not columns or len(varying) > 1:
            return self._each([column.rows for column in columns])
        place = varying[0] if varying else 0
        _, distinct, places, lengths = columns[place]
        before = self._prefix + self._constant(columns[:place], 0)
        after = self._constant(columns[place + 1 :], place + 1) + self._suffix
        kind = None if place == self._bare else self._kinds[place]
        end = after + b"\r\n" + self._close
        frames = {
            size: _frame(self._open, before, kind, size, len(after), end)
            for size in set(lengths or ())
        }
        # One format for all keys: a loop over them would take three times as long.
        template = b"".join(map(frames.__getitem__, lengths or ()))
        return template % tuple(distinct), len(distinct), places

    def _constant(self, columns: Sequence[Encoded], first: int) -> bytes:
        return b"".join(
            self._piece(place, column.rows[0]) for place, column in enumerate(columns, first)
        )

    def _piece(self, place: int, raw: bytes) -> bytes:
        return _marker(None if place == self._bare else self._kinds[place], len(raw)) + raw

    def _each(self, columns: Sequence[list[Any]]) -> tuple[bytes, int, Places]:
        """Key by key, whatever varies or is null."""
        rows = 0 if any(not column for column in columns) else max(map(len, columns), default=1)
        spread = [column * rows if len(column) == 1 else column for column in columns]
        entities = list(zip(*spread, strict=True)) if spread else [()]
        numbers: dict[tuple[Any, ...], int] = {}
        places = np.array([numbers.setdefault(each, len(numbers)) for each in entities], np.intp)
        keys = [
            self._open + bulk(b"" if None in entity else self._one(entity)) + self._close
            for entity in numbers
        ]
        return b"".join(keys), len(keys), None if len(keys) == rows else places

    def _one(self, entity: Sequence[bytes]) -> bytes:
        pieces = [self._piece(place, raw) for place, raw in enumerate(entity)]
        return b"".join([self._prefix, *pieces, self._suffix])


def _marker(kind: int | None, size: int) -> bytes:
    """What stands before a join key's value: its type and its length."""
    return b"" if kind is None else _two(kind, size)


@lru_cache(maxsize=1024)  # views of one join key need the same few again and again
def _frame(
    opening: bytes, before: bytes, kind: int | None, size: int, after: int, end: bytes
) -> bytes:
    """The format of keys whose varying value takes `size` bytes."""
    start = before + _marker(kind, size)
    head = b"%b$%d\r\n%b" % (opening, len(start) + size + after, start)
    return head.replace(b"%", b"%%") + b"%b" + end.replace(b"%", b"%%")
