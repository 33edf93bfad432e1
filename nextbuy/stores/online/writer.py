"""Feature rows into Redis: each whole or not at all, and never an older one over a newer one.

Rows are written a few at a time by optimistic transactions
(https://redis.io/docs/latest/develop/using-commands/transactions/): watch their hashes, read the
timestamps there, write the rows that are not older. If another client changed one of the hashes in
between, Redis refuses the whole transaction and it is tried again. A few connections take turns,
so that Redis works while the next rows are prepared.

An equal timestamp is written again: a repeated run completes what is missing, and a corrected
value or a new feature of the same moment arrives. (Stock Feast leaves such a row out.)
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import redis
from feast.repo_config import RepoConfig
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError
from nextbuy.stores.online import encoding
from nextbuy.stores.online.encoded_rows import EncodedRows
from nextbuy.stores.online.layout import RedisLayout, clock_key, hash_field, packed_key
from nextbuy.stores.online.request import read_replies
from nextbuy.times import MICROSECOND, NOT_SEEN_US

TRANSACTION_ROWS = 50  # Redis compares a key with all that its connection watches already
CONNECTIONS = 4
COMMAND_ROWS = 20_000  # made into commands at a time

Expiry = Literal["never", "timestamp", "persist"] | int
"""When a key expires: never; a row's timestamp plus TTL, or later if the key holds a view that
lasts longer; its expiry is removed, as the view has no TTL; so many seconds after the write, as
stock Feast's `key_ttl_seconds`."""

RECORD_WRITE = """
local old = redis.call('GET', KEYS[1])
if not old or tonumber(old) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
if KEYS[2] then redis.call('HSET', KEYS[2], ARGV[2], ARGV[3]) end
"""
"""Moves a clock forward, never back; and records the view of a prefix of packed keys."""


def write(
    client: redis.Redis,
    config: RepoConfig,
    layout: RedisLayout,
    batches: Iterable[EncodedRows],
    progress: Callable[[int], Any] = lambda rows: None,
) -> None:
    """Write rows; of several with one key in a batch the newest.

    `progress` is called with numbers of rows that Redis has taken (or has a newer row for).

    Raises:
        NextbuyError: Redis is away, was restarted, or is full. What was written is whole; writing
            the same rows again completes it.
    """
    expiry = _expiry(config.online_store, layout)
    newest, done = NOT_SEEN_US, 0
    try:
        for times in transact(client, _parts(batches, layout, expiry, progress)):
            newest = max(newest, int(times.max()))
            done += len(times)
            progress(len(times))
        if done:
            record: list[Any] = [clock_key(config.project), newest]
            if layout.packed:
                record[1:1] = [packed_key(config.project)]
                record += [layout.packed.prefix, layout.name]
            client.eval(RECORD_WRITE, 1 + bool(layout.packed), *record)
    except (redis.RedisError, OSError) as error:
        raise write_error(error, f"took {done} rows of feature view {layout.name!r}") from error


def _expiry(online: Any, layout: RedisLayout) -> Expiry:
    if online.key_ttl_seconds:
        return int(online.key_ttl_seconds)
    if online.clock == "data":
        return "never"
    return "timestamp" if layout.ttl else "persist"


class RowCommands:
    """Rows as the Redis commands that look at what is there and write them."""

    def __init__(self, rows: EncodedRows, layout: RedisLayout, expiry: Expiry) -> None:
        count = len(rows.times)
        self.times, self.expiry = rows.times, expiry
        self._keys = rows.keys
        looks = [_commands([b"HGET", rows.keys, layout.timestamp_field], count)]
        if expiry in ("timestamp", "persist"):
            looks.append(_commands([b"PTTL", rows.keys], count))
        self._replies_a_row = len(looks)
        self._looks = encoding.joined(looks, count)
        hset: list[bytes | pa.BinaryArray] = [b"HSET", rows.keys]
        for name, values in zip(rows.features, rows.values, strict=True):
            hset += [hash_field(layout.name, name), values]
        hset += [layout.timestamp_field, encoding.timestamps(rows.times)]
        self._writes = [_commands(hset, count)]
        self._renewals: pa.BinaryArray | None = None
        """What moves a hash's expiry, where it has to be moved."""
        if rows.packed is not None and rows.packed_keys is not None:
            self._writes.append(_commands([b"SET", rows.packed_keys, rows.packed], count))
        if expiry == "timestamp" and layout.ttl:
            self._ends = (rows.times + layout.ttl // MICROSECOND) // 1000
            ends = pa.array(self._ends).cast(pa.string()).cast(pa.binary())
            self._renewals = _commands([b"PEXPIREAT", rows.keys, ends], count)
            if rows.packed_keys is not None:
                self._writes.append(_commands([b"PEXPIREAT", rows.packed_keys, ends], count))
        elif expiry == "persist":
            self._renewals = _commands([b"PERSIST", rows.keys], count)
        elif isinstance(expiry, int):
            for keys in filter(None, (rows.keys, rows.packed_keys)):
                self._writes.append(_commands([b"EXPIRE", keys, b"%d" % expiry], count))

    def look(self, part: slice) -> tuple[list[bytes | memoryview], int]:
        """Watch the hashes of some rows and read what decides on them; the number of replies."""
        count = part.stop - part.start
        keys = self._keys[part].to_pylist()
        commands: list[bytes | memoryview] = [encoding.command(b"WATCH", *keys)]
        if self.expiry == "timestamp":
            commands.append(encoding.command(b"TIME"))
        return [*commands, _span(self._looks, part)], len(commands) + count * self._replies_a_row

    def transaction(self, part: slice, replies: list[Any]) -> tuple[list[bytes | memoryview], int]:
        """The transaction that the replies to `look` call for; the number of its replies."""
        looks = replies[1 + (self.expiry == "timestamp") :]
        write = encoding.read_timestamps(looks[:: self._replies_a_row]) <= self.times[part]
        commands: list[bytes | memoryview] = [encoding.command(b"MULTI")]
        commands += (_chosen(each, part, write) for each in self._writes)
        count = int(write.sum()) * len(self._writes)
        if self._renewals is not None:
            left = np.array(looks[1::2], np.int64)  # -1 without an expiry, -2 without the key
            renew = write & (left >= 0)
            if self.expiry == "timestamp":
                seconds, micros = map(int, replies[1])
                sooner = seconds * 1000 + micros // 1000 + left < self._ends[part]
                renew = renew & sooner | write & (left == -2)
            commands.append(_chosen(self._renewals, part, renew))
            count += int(renew.sum())
        return [*commands, encoding.command(b"EXEC")], count + 2


def _commands(arguments: Sequence[pa.BinaryArray | bytes], rows: int) -> pa.BinaryArray:
    """A Redis command of each row; an argument that is the same for all is given as bytes.

    `hiredis.pack_command` row by row would take ten times as long.
    """
    pieces: list[pa.Array | bytes] = [b"*%d" % len(arguments)]
    for each in arguments:
        if isinstance(each, bytes):
            pieces.append(b"$%d\r\n%b" % (len(each), each))
        else:
            pieces += [_dollars(each), each]
    return encoding.joined([*pieces, b""], rows, separator=b"\r\n")


def _dollars(column: pa.BinaryArray) -> pa.BinaryArray:
    lengths = pc.binary_length(column)
    longest = pc.max(lengths).as_py() or 0
    if longest < 4096:
        return pa.array([b"$%d" % n for n in range(longest + 1)], pa.binary()).take(lengths)
    return pa.array([b"$%d" % n for n in lengths.to_pylist()], pa.binary())


def _span(commands: pa.BinaryArray, part: slice) -> memoryview:
    """The bytes of consecutive rows, not copied."""
    offsets = np.frombuffer(commands.buffers()[1], np.int32)[commands.offset :]
    data = commands.buffers()[2]
    return memoryview(data if data is not None else b"")[offsets[part.start] : offsets[part.stop]]


def _chosen(commands: pa.BinaryArray, part: slice, chosen: NDArray[np.bool_]) -> memoryview:
    if chosen.all():
        return _span(commands, part)
    kept = commands[part].filter(pa.array(chosen))
    return _span(kept, slice(0, len(kept)))


class Commands(Protocol):
    """Rows as commands that look at what is there, and those that this calls for."""

    times: NDArray[np.int64]
    """Shape (rows,)."""

    def look(self, part: slice) -> tuple[list[bytes | memoryview], int]:
        """Commands that watch the hashes of some rows and look at them; how many replies."""

    def transaction(self, part: slice, replies: list[Any]) -> tuple[list[bytes | memoryview], int]:
        """From MULTI to EXEC, as the replies call for; how many replies."""


_Part = tuple[Commands, slice]
"""The rows of one transaction."""


def _parts(
    batches: Iterable[EncodedRows],
    layout: RedisLayout,
    expiry: Expiry,
    progress: Callable[[int], Any],
) -> Iterator[_Part]:
    for rows in batches:
        kept = rows.newest()
        if expiry == "timestamp" and layout.ttl:
            ends = kept.times + layout.ttl // MICROSECOND
            kept = kept.take(ends > time.time_ns() // 1000)  # Redis would drop the others at once
        if left_out := len(rows.times) - len(kept.times):
            progress(left_out)
        for start in range(0, len(kept.times), COMMAND_ROWS):
            yield from in_transactions(RowCommands(kept.slice(start, COMMAND_ROWS), layout, expiry))


def in_transactions(commands: Commands) -> Iterator[_Part]:
    """The rows, as many at a time as one transaction takes."""
    count = len(commands.times)
    for at in range(0, count, TRANSACTION_ROWS):
        yield commands, slice(at, min(at + TRANSACTION_ROWS, count))


def transact(client: redis.Redis, parts: Iterator[_Part]) -> Iterator[NDArray[np.int64]]:
    """Change the rows; yields the times of each transaction that went through."""
    again = deque[_Part]()
    looking, writing = deque[tuple[Any, _Part, int]](), deque[tuple[Any, _Part, int]]()
    with ExitStack() as stack:
        idle: list[Any] = []
        opened = 0
        while True:
            if (idle or opened < CONNECTIONS) and (
                part := again.popleft() if again else next(parts, None)
            ):
                if not idle:
                    idle.append(stack.enter_context(_pooled_connection(client)))
                    opened += 1
                connection = idle.pop()
                commands, replies = part[0].look(part[1])
                connection.send_packed_command(commands)
                looking.append((connection, part, replies))
            elif looking and (2 * len(looking) > opened or not writing):  # half look, half write
                connection, part, replies = looking.popleft()
                look = read_replies(connection, replies)
                commands, replies = part[0].transaction(part[1], look)
                connection.send_packed_command(commands)
                writing.append((connection, part, replies))
            elif writing:
                connection, part, replies = writing.popleft()
                written = read_replies(connection, replies)[-1]
                idle.append(connection)
                if written is None:  # another client changed a hash meanwhile
                    again.append(part)
                elif errors := [each for each in written if isinstance(each, redis.RedisError)]:
                    raise errors[0]
                else:
                    yield part[0].times[part[1]]
            else:
                return


@contextmanager
def _pooled_connection(client: redis.Redis) -> Iterator[Any]:
    """A connection from the client's pool; after an error it is closed, as replies may be due."""
    pool: Any = client.connection_pool
    connection = pool.get_connection()
    try:
        yield connection
    except BaseException:
        connection.disconnect()
        raise
    finally:
        pool.release(connection)


def write_error(error: Exception, done: str) -> NextbuyError:
    """Our error for one of Redis's; `done` says what it did before."""
    reason = str(error)
    if isinstance(error, redis.OutOfMemoryError):
        reason = "it is full (maxmemory). Give it more memory or fewer rows"
    elif "MISCONF" in reason:
        reason = "it cannot save to its disk. Free space there"
    elif "WRONGTYPE" in reason:
        reason = (
            "a key of these rows holds something that is no hash of Feast's. Remove what another "
            "program put into this database, or name another one (connection_string, REDIS_URL)"
        )
    return NextbuyError(
        f"Redis {done}, then: {reason}. Every row in it is whole; run the same command again to "
        "complete the rest."
    )
