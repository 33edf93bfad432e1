"""Feature rows into Redis: each whole or not at all, none over a newer one.

Rows are written a few at a time by optimistic transactions
(https://redis.io/docs/latest/develop/using-commands/transactions/): watch their hashes, read the
timestamps there, write what is not older. If anyone changed one of the hashes in between, Redis
refuses the transaction as a whole and it begins anew. A few connections take turns, so that Redis
has work while the next rows are looked at.

An equal timestamp is written again: a run that is repeated completes what is missing, and a
corrected value or a new feature of the same moment arrives. (Stock Feast leaves such a row out.)
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import redis
from feast.repo_config import RepoConfig
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError
from nextbuy.stores.online import encoding
from nextbuy.stores.online.decoding import stamps
from nextbuy.stores.online.layout import Layout, clock_key
from nextbuy.stores.online.rows import Rows
from nextbuy.stores.online.wire import Wire, bulk, command, first_error, header, wire
from nextbuy.times import MICROSECOND, NOT_SEEN_US

ROWS = 50  # of a transaction: Redis compares a key with all that its connection watches already
CONNECTIONS = 4
FRAMED_ROWS = 20_000  # made into commands at a time

Expiry = Literal["never", "stamp", "persist"] | int
"""A key's end: none; a row's timestamp and TTL, or later if the key holds a view that lasts longer;
removed, as the view has no end; so many seconds after the write, as stock Feast's
`key_ttl_seconds`."""

CLOCK = """
local old = redis.call('GET', KEYS[1])
if not old or tonumber(old) < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
"""
"""Moves a clock forward, never back."""


def write(
    client: redis.Redis,
    config: RepoConfig,
    into: Layout,
    batches: Iterable[Rows],
    progress: Callable[[int], Any] = lambda rows: None,
) -> None:
    """Write rows; of several with one key in a batch the newest.

    `progress` is called with numbers of rows that Redis has taken in (or knows newer).

    Raises:
        NextbuyError: Redis is away, was restarted, or is full. What was written is whole; writing
            the same rows again completes it.
    """
    expiry = _expiry(config.online_store, into)
    newest, done = NOT_SEEN_US, 0
    try:
        for times in _transact(client, _parts(batches, into, expiry, progress)):
            newest = max(newest, int(times.max()))
            done += len(times)
            progress(len(times))
        if done:
            client.eval(CLOCK, 1, clock_key(config.project), newest)
    except (redis.RedisError, OSError) as error:
        raise NextbuyError(_trouble(error, into.name, done)) from error


def _expiry(online: Any, into: Layout) -> Expiry:
    if online.key_ttl_seconds:
        return int(online.key_ttl_seconds)
    if online.clock == "data":
        return "never"
    return "stamp" if into.ttl else "persist"


_Part = tuple["_Work", slice]


class _Work:
    """Rows as commands, ready to be sent."""

    def __init__(self, rows: Rows, into: Layout, expiry: Expiry) -> None:
        count = len(rows.times)
        self.times, self.expiry = rows.times, expiry
        self.keys = encoding.framed([rows.keys], count)
        asks = [encoding.commands([b"HGET", rows.keys, into.stamp_field], count)]
        self._dated = expiry in ("stamp", "persist")
        if self._dated:
            asks.append(encoding.commands([b"PTTL", rows.keys], count))
        self.asks = encoding.joined(asks, count)
        hash_: list[bytes | pa.BinaryArray] = [b"HSET", rows.keys]
        for name, values in zip(rows.features, rows.values, strict=True):
            hash_ += [into.field(name), values]
        hash_ += [into.stamp_field, encoding.stamps(rows.times)]
        self.writes = [encoding.commands(hash_, count)]
        self.renewals: pa.BinaryArray | None = None
        """What moves a hash's end, where it has to be moved."""
        if rows.packed is not None and rows.packed_keys is not None:
            self.writes.append(encoding.commands([b"SET", rows.packed_keys, rows.packed], count))
        if expiry == "stamp" and into.ttl:
            self.ends = (rows.times + into.ttl // MICROSECOND) // 1000
            ends = pa.array(self.ends).cast(pa.string()).cast(pa.binary())
            self.renewals = encoding.commands([b"PEXPIREAT", rows.keys, ends], count)
            if rows.packed_keys is not None:
                self.writes.append(encoding.commands([b"PEXPIREAT", rows.packed_keys, ends], count))
        elif expiry == "persist":
            self.renewals = encoding.commands([b"PERSIST", rows.keys], count)
        elif isinstance(expiry, int):
            for keys in filter(None, (rows.keys, rows.packed_keys)):
                self.writes.append(encoding.commands([b"EXPIRE", keys, b"%d" % expiry], count))

    def ask(self, part: slice) -> tuple[bytes, int]:
        """Watch the hashes of some rows and ask for what decides on them; and the replies due."""
        count = part.stop - part.start
        watch = header(1 + count) + bulk(b"WATCH")
        clock = command(b"TIME") if self.expiry == "stamp" else b""
        keys, asks = (encoding.span(each, part) for each in (self.keys, self.asks))
        return b"".join((watch, keys, clock, asks)), 1 + bool(clock) + count * (1 + self._dated)

    def answer(self, part: slice, replies: list[Any]) -> tuple[bytes, int]:
        """The transaction that the replies call for, and the replies due."""
        found = replies[1 + (self.expiry == "stamp") :]
        step = 1 + self._dated
        fresh = stamps(found[::step]) <= self.times[part]
        pieces = [command(b"MULTI"), *(_chosen(each, part, fresh) for each in self.writes)]
        count = int(fresh.sum()) * len(self.writes)
        if self.renewals is not None:
            left = np.array(found[1::step], np.int64)  # -1 without an end, -2 without the key
            renewed = fresh & (left >= 0)
            if self.expiry == "stamp":
                seconds, micros = map(int, replies[1])
                sooner = seconds * 1000 + micros // 1000 + left < self.ends[part]
                renewed = renewed & sooner | fresh & (left == -2)
            pieces.append(_chosen(self.renewals, part, renewed))
            count += int(renewed.sum())
        pieces.append(command(b"EXEC"))
        return b"".join(pieces), count + 2


def _chosen(commands: pa.BinaryArray, part: slice, chosen: NDArray[np.bool_]) -> memoryview | bytes:
    if chosen.all():
        return encoding.span(commands, part)
    kept = commands[part].filter(pa.array(chosen))
    return encoding.span(kept, slice(0, len(kept)))


def _parts(
    batches: Iterable[Rows], into: Layout, expiry: Expiry, progress: Callable[[int], Any]
) -> Iterator["_Part"]:
    """The rows of each transaction, as commands."""
    for rows in batches:
        kept = rows.newest()
        if expiry == "stamp" and into.ttl:
            ends = kept.times + into.ttl // MICROSECOND
            kept = kept.take(ends > time.time_ns() // 1000)  # Redis would drop the others at once
        if left_out := len(rows.times) - len(kept.times):
            progress(left_out)
        for start in range(0, len(kept.times), FRAMED_ROWS):
            work = _Work(kept.slice(start, FRAMED_ROWS), into, expiry)
            for at in range(0, len(work.times), ROWS):
                yield work, slice(at, min(at + ROWS, len(work.times)))


def _transact(client: redis.Redis, parts: Iterator["_Part"]) -> Iterator[NDArray[np.int64]]:
    """Bring the rows in; give the times of each transaction that went through."""
    again = deque["_Part"]()
    asked, sent = deque[tuple[Wire, "_Part", int]](), deque[tuple[Wire, "_Part", int]]()
    with ExitStack() as stack:
        idle: list[Wire] = []
        lines = 0
        while True:
            if (idle or lines < CONNECTIONS) and (
                part := again.popleft() if again else next(parts, None)
            ):
                if not idle:
                    idle.append(stack.enter_context(wire(client)))
                    lines += 1
                line = idle.pop()
                commands, due = part[0].ask(part[1])
                line.send(commands)
                asked.append((line, part, due))
            elif asked and (2 * len(asked) > lines or not sent):  # half ask while the others write
                line, (work, rows), due = asked.popleft()
                commands, due = work.answer(rows, _replies(line, due))
                line.send(commands)
                sent.append((line, (work, rows), due))
            elif sent:
                line, part, due = sent.popleft()
                written = _replies(line, due)[-1]
                idle.append(line)
                if written is None:  # somebody was faster
                    again.append(part)
                elif error := first_error(written):
                    raise error
                else:
                    yield part[0].times[part[1]]
            else:
                return


def _replies(line: Wire, due: int) -> list[Any]:
    replies = line.read(due)
    if error := first_error(replies):
        raise error
    return replies


def _trouble(error: Exception, view: str, done: int) -> str:
    reason = str(error)
    if "OOM" in reason:
        reason = "it is full (maxmemory). Give it more memory or fewer rows"
    elif "MISCONF" in reason:
        reason = "it cannot save to its disk. Free space there"
    elif "WRONGTYPE" in reason:
        reason = (
            "a key of these rows holds something that is no hash of Feast's. Remove what another "
            "program put into this database, or name another one (connection_string, REDIS_URL)"
        )
    return (
        f"Redis took {done} rows of feature view {view!r}, then: {reason}. Every row in "
        "it is whole; run the same command again to complete the rest."
    )
