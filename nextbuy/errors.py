"""What goes wrong in a way that the user can put right, and the machine's refusals in plain words.

A refusal of the machine (no room, no right to write, a locked database, no memory) reaches us
through any library and in any form: an OSError, DuckDB's, Arrow's, SQLite's or MLflow's own. What
they share is the system's sentence, somewhere in the chain of causes.
"""

import errno
import os
from collections.abc import Iterator


class NextbuyError(Exception):
    """Something the user can put right: the message says what, where, and what to do."""


AGAIN = "Then run the command again; what was published before is untouched."

_SENTENCES: dict[str, tuple[str, ...]] = {
    "The disk is full. Free some room, or point NEXTBUY_DATA to another disk.": (
        os.strerror(errno.ENOSPC),
        os.strerror(errno.EDQUOT),
        os.strerror(errno.EFBIG),
        "database or disk is full",  # SQLite
        "MISCONF",  # a Redis that cannot save takes nothing in
    ),
    "The disk is full or fails. Free some room, or point NEXTBUY_DATA to another disk.": (
        "disk I/O error",  # SQLite's word for both
    ),
    "Nextbuy may not write there. Make it writable for this user, or point NEXTBUY_DATA to a "
    "folder that is.": (
        os.strerror(errno.EROFS),
        os.strerror(errno.EACCES),
        "readonly database",  # SQLite
    ),
    "Another program holds the database. Let it end, or end it.": (
        "database is locked",
        "database table is locked",
    ),
    "There is not enough memory. Set NEXTBUY_MEMORY_LIMIT (4GB) and NEXTBUY_THREADS lower, or "
    "raise what this process may have (ulimit -v, the container's limit).": (
        os.strerror(errno.ENOMEM),
        "Out of Memory Error",  # DuckDB
        "bad allocation",
        "bad_alloc",
        "can't start new thread",
        "MemoryError",
    ),
}


def explain_refusal(error: BaseException) -> str | None:
    """What to tell the user where the machine refused something; None where it is no such error.

    >>> explain_refusal(OSError(28, "No space left on device", "x"))[:57]
    "[Errno 28] No space left on device: 'x'. The disk is full"
    """
    for cause in _causes(error):
        text = f"{cause}" or type(cause).__name__
        if isinstance(cause, MemoryError):
            text = f"MemoryError: {cause}".rstrip(": ")
        for what_to_do, sentences in _SENTENCES.items():
            for line in text.splitlines():
                if any(sentence in line for sentence in sentences):
                    return f"{line.strip().rstrip('.')}. {what_to_do} {AGAIN}"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from, the nearest first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
