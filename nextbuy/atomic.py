"""Files that change as a whole: written under a temporary name beside the target, then renamed.

A reader sees the old file or the new one, also after a crash of the process.
`durable=True` also survives a power cut: the content and the rename are on the disk when the block
ends. It costs some milliseconds a file, so it is for what nothing else can restore: Feast's
registry, the prediction log, the erasure of a person, backups. Reports, caches and whatever a
command makes again do without.

A version of a table is many files (`nextbuy.versioned_table`). Publishing it flushes them all with
one `os.sync()` before the table's link moves, which costs less than one flush per file.
"""

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TEMPORARY = re.compile(r"\..+\.(\d+)-[0-9a-f]{8}")
"""Name of a file that is being written by the process of this number, or was when it was killed."""


@contextmanager
def replacing(target: Path, *, durable: bool = False) -> Iterator[Path]:
    """The temporary path to write; the end of the block renames it to `target`.

    The name begins with a dot, so that readers of the folder pass over it. It is removed if the
    block raises, and the target stays as it was. Folders above the target are made.

    >>> with replacing(Path("report.json")) as file:
    ...     file.write_text("{}")
    2
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    try:
        yield temporary
        if durable:
            _to_disk(temporary)
        temporary.replace(target)
        if durable:
            _to_disk(target.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(target: Path, text: str, *, durable: bool = False) -> None:
    """Replace a text file as a whole; see `replacing`."""
    with replacing(target, durable=durable) as temporary:
        temporary.write_text(text)


def _to_disk(path: Path) -> None:
    """Flush a file, or a folder's list of names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
