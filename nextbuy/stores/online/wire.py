"""Bytes to Redis and replies from it, without a Python call per value on the way.

redis-py makes the connection (address, password, TLS, database) and keeps it in its pool; in
between the bytes are ours, and hiredis parses the replies.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hiredis
import redis

from nextbuy.errors import NextbuyError

CHUNK = 1 << 16


class Wire:
    """One connection: what is sent first is answered first."""

    def __init__(self, connection: Any) -> None:
        self._socket = connection._sock  # the one thing redis-py keeps to itself
        self._reader = hiredis.Reader(replyError=redis.ResponseError)
        self._buffer = bytearray(CHUNK)

    def send(self, *parts: bytes | memoryview) -> None:
        """Send whole commands, as `command` or `encode.commands` make them."""
        for part in parts:
            self._socket.sendall(part)

    def read(self, replies: int) -> list[Any]:
        """The next replies, errors among them as objects.

        Raises:
            redis.ConnectionError: the server closed the connection.
        """
        found: list[Any] = []
        gets, keep = self._reader.gets, found.append
        while True:
            while len(found) < replies and (reply := gets()) is not False:
                keep(reply)
            if len(found) == replies:
                return found
            size = self._socket.recv_into(self._buffer)
            if not size:
                raise redis.ConnectionError("the server closed the connection")
            self._reader.feed(self._buffer, 0, size)  # type: ignore[arg-type]  # takes any buffer


@contextmanager
def wire(client: redis.Redis) -> Iterator[Wire]:
    """A connection from the client's pool; it goes back unless an error left replies in it."""
    pool: Any = client.connection_pool
    connection = pool.get_connection()
    try:
        yield Wire(connection)
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


class Lines:
    """Connections of a client, kept at hand for questions that change nothing.

    redis-py's pool looks after a connection each time it lends it, which takes half as long as a
    small question takes to be answered. Here a connection that the server has closed meanwhile
    shows when it is used: the question is then asked once more, on a new one.
    """

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self._idle: list[tuple[Any, Wire]] = []
        self._process = os.getpid()

    def ask(self, commands: bytes, replies: int) -> list[Any]:
        """Send whole commands and give their replies.

        Raises:
            redis.ResponseError: a command was refused.
            redis.ConnectionError, OSError: there is no connection, or no answer in time.
        """
        if self._process != os.getpid():  # a fork must not read from its parent's connection
            self._process, self._idle = os.getpid(), []
        try:
            kept = self._idle.pop()  # in one step: threads may ask at once
        except IndexError:
            return self._ask(*self._open(), commands, replies)
        try:
            return self._ask(*kept, commands, replies)
        except (redis.ConnectionError, ConnectionError):
            self._idle.clear()  # the server went: they are closed as well
            return self._ask(*self._open(), commands, replies)

    def _open(self) -> tuple[Any, Wire]:
        pool: Any = self.client.connection_pool
        connection = pool.get_connection()
        return connection, Wire(connection)

    def _ask(self, connection: Any, line: Wire, commands: bytes, replies: int) -> list[Any]:
        try:
            line.send(commands)
            found = line.read(replies)
        except BaseException:
            connection.disconnect()
            self.client.connection_pool.release(connection)
            raise
        self._idle.append((connection, line))
        if refusal := first_error(found):
            raise refusal
        return found


@contextmanager
def reading() -> Iterator[None]:
    """A read from Redis, with one error for whatever keeps it from being answered.

    Raises:
        NextbuyError: Redis is away, slow, was restarted, or refuses.
    """
    try:
        yield
    except (redis.RedisError, OSError) as error:
        raise NextbuyError(
            f"Redis could not be read: {error}. Try again, or see that it runs."
        ) from error


def bulk(text: bytes) -> bytes:
    """One argument."""
    return b"$%d\r\n%b\r\n" % (len(text), text)


def header(arguments: int) -> bytes:
    """What opens a command of so many arguments, its name among them."""
    return b"*%d\r\n" % arguments


def command(*arguments: bytes) -> bytes:
    """A whole command.

    >>> command(b"GET", b"a")
    b'*2\\r\\n$3\\r\\nGET\\r\\n$1\\r\\na\\r\\n'
    """
    return header(len(arguments)) + b"".join(map(bulk, arguments))


def first_error(replies: Sequence[Any]) -> redis.ResponseError | None:
    """The first reply that is an error."""
    kinds = set(map(type, replies))  # few, while a loop over all replies takes ten times as long
    if not any(issubclass(kind, redis.ResponseError) for kind in kinds):
        return None
    return next(reply for reply in replies if isinstance(reply, redis.ResponseError))
