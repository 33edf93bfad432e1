"""What a read sends to Redis: the keys of a request, and the connection that carries them.

In most requests one join key differs from row to row and the others, the shopper's, do not: then
all keys share their beginning and their end.
"""

import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import redis
from feast.value_type import ValueType
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError

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


class ConnectionPerThread:
    """Connections of a client, one held by each thread that reads.

    redis-py's pool checks a connection each time it lends it, which takes half as long as a small
    request. Here a connection that the server closed meanwhile shows when it is used: the commands
    are then sent once more, on a new one.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._held = threading.local()

    def execute(self, commands: bytes, replies: int) -> list[Any]:
        """Send packed commands that change nothing; returns their replies.

        Raises:
            redis.ResponseError, redis.ConnectionError, redis.TimeoutError: as `read_replies`.
        """
        connection = getattr(self._held, "connection", None)
        if connection is None or connection.pid != os.getpid():  # not the one of a fork's parent
            return self._execute(self._open(), commands, replies)
        try:
            return self._execute(connection, commands, replies)
        except redis.ConnectionError:
            return self._execute(self._open(), commands, replies)

    def _open(self) -> Any:
        pool = self.client.connection_pool
        # Outside the pool, so that it is closed when its thread ends.
        connection = self._held.connection = pool.connection_class(**pool.connection_kwargs)
        return connection

    def _execute(self, connection: Any, commands: bytes, replies: int) -> list[Any]:
        try:
            connection.send_packed_command([commands])
            return read_replies(connection, replies)
        except redis.ResponseError:
            raise
        except BaseException:  # an interrupt too may leave replies in the connection
            connection.disconnect()
            raise


@contextmanager
def explain_read_errors() -> Iterator[None]:
    """Turn what keeps Redis from answering a read into one error.

    Raises:
        NextbuyError: Redis is away, slow, was restarted, or refuses.
    """
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise NextbuyError(
            f"Redis could not be read: {error}. Try again, or see that it runs."
        ) from error


def read_replies(connection: Any, count: int) -> list[Any]:
    """The replies to commands sent over a redis-py connection, in their order.

    Raises:
        redis.ResponseError: the first refusal; the connection has been read to the end and stays
            usable.
        redis.ConnectionError, redis.TimeoutError: the connection is closed.
    """
    read = connection.read_response
    replies: list[Any] = []
    refusal: redis.ResponseError | None = None
    for _ in range(count):
        try:
            replies.append(read(disable_decoding=True))
        except redis.ResponseError as error:
            refusal = refusal or error
    if refusal is not None:
        raise refusal
    return replies
