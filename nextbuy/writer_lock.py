"""One writer at a time in a data folder.

Tables, models and the values in Redis are made from one another. Two commands that change them at
once would mix the states of two moments: features of new events with labels of old ones. So each of
them holds this lock, from its beginning to its end; a command that runs others holds it for all of
them. Who only reads (the service, the dashboard, `nextbuy monitor`) needs no lock: a reader sees a
published version or the one before it, never half of one.

The kernel gives the lock back with its process, also after kill -9.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings

LOCK = Path("writer.lock")
"""Below the data folder; names its holder."""
POLL_SECONDS = 0.5
_held: set[Path] = set()


@contextmanager
def sole_writer(settings: Settings, work: str) -> Iterator[None]:
    """Be the only writer of the data folder until the block ends; inside such a block, go on.

    >>> with sole_writer(Settings(), "nextbuy ingest"):
    ...     ...

    Args:
        settings: the data folder, and how long to wait for another writer.
        work: what others wait for, for their message.

    Raises:
        NextbuyError: another process writes; the message names it.
    """
    path = settings.data / LOCK
    if path in _held:
        yield
        return
    opened = _open(path)
    if opened is None:
        yield
        return
    with opened as file:
        _take(file, settings)
        file.truncate(0)
        file.write(f"{work} (process {os.getpid()}, since {datetime.now(UTC):%Y-%m-%d %H:%M} UTC)")
        file.flush()
        _held.add(path)
        try:
            yield
        finally:
            _held.remove(path)
            fcntl.flock(file, fcntl.LOCK_UN)  # forked children have the file open too


def _open(path: Path) -> IO[str] | None:
    """None on a read-only disk, where nobody writes; a verb that has something to write says so."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+")
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        return None


def _take(file: IO[str], settings: Settings) -> None:
    deadline = time.monotonic() + settings.writer_wait.total_seconds()
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                file.seek(0)
                raise NextbuyError(
                    f"{file.read() or 'Another command'} is writing to {settings.data}, which one "
                    "command does at a time. Try again when it has ended, or let this one wait: "
                    "NEXTBUY_WRITER_WAIT=PT1H"
                ) from None
        time.sleep(POLL_SECONDS)
