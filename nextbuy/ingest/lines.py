"""Text files, gzipped or not, as Arrow batches of numbered lines."""

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from nextbuy.errors import NextbuyError

Progress = Callable[[str], None]
"""Told in words what is being done and how far it is."""

CHUNK = 1 << 23  # bytes read at once; each chunk becomes one batch
LONGEST_LINE = 1 << 24  # bytes; beyond this it is no log of lines
SCHEMA = pa.schema(
    [
        pa.field("_file", pa.dictionary(pa.int32(), pa.string())),
        pa.field("_row", pa.int64()),  # from 1, the header included
        pa.field("_line", pa.string()),  # without its line break
        pa.field("_unread", pa.string()),  # why the line is no text, else null
    ]
)


class Lines:
    """The lines of some files, read once; keeps the failure that DuckDB would only quote."""

    def __init__(self, files: Sequence[Path], has_header: bool, progress: Progress) -> None:
        self._files, self._has_header, self._progress = files, has_header, progress
        self.failure: NextbuyError | None = None

    def reader(self) -> pa.RecordBatchReader:
        """Batches of `SCHEMA`.

        Raises:
            NextbuyError: (while it is read) a file breaks off, or is not made of lines.
        """
        return pa.RecordBatchReader.from_batches(SCHEMA, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for file in self._files:
            row = 1
            try:
                for text, share in _whole_lines(file):
                    batch = _batch(file, row, text)
                    row += batch.num_rows
                    yield (
                        batch.slice(1) if self._has_header and row == batch.num_rows + 1 else batch
                    )
                    self._progress(f"reading {file.name}: {share:.0%}")
            except (OSError, EOFError, zlib.error) as error:
                self.failure = NextbuyError(
                    f"{file} cannot be read beyond line {row - 1}: {error}. "
                    "Fetch it again, or repack what is good of it."
                )
                raise self.failure from None
            except NextbuyError as error:
                self.failure = error
                raise


@contextmanager
def open_text(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file's text, gunzipped where need be, and the file itself, to see how far it is read."""
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        if zipped:
            with gzip.GzipFile(fileobj=file) as text:
                yield text, file  # type: ignore[misc]  # GzipFile reads bytes as IO does
        else:
            yield file, file


def _whole_lines(path: Path) -> Iterator[tuple[bytes, float]]:
    """Chunks of whole lines, each ended by a newline, and the share of the file read so far."""
    size = max(path.stat().st_size, 1)
    with open_text(path) as (text, file):
        rest = b""
        first = True
        while chunk := text.read(CHUNK):
            if first:
                chunk, first = chunk.removeprefix(b"\xef\xbb\xbf"), False
            data = rest + chunk
            end = data.rfind(b"\n") + 1
            rest = data[end:]
            if len(rest) > LONGEST_LINE:
                raise NextbuyError(
                    f"{path} holds a line of more than {LONGEST_LINE >> 20} MB. Is it a text log?"
                )
            if end:
                yield data[:end], file.tell() / size
        if rest:
            yield rest + b"\n", 1.0


def _batch(file: Path, first_row: int, text: bytes) -> pa.RecordBatch:
    if b"\r" in text:
        text = text.replace(b"\r\n", b"\n")
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
    offsets = np.concatenate(([0], ends - np.arange(len(ends)))).astype(np.int32)
    body = text.replace(b"\n", b"")
    lines = pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(body))
    unread = pa.nulls(len(ends), pa.string())
    try:
        lines.validate(full=True)
    except pa.ArrowInvalid:
        shown = [line.decode(errors="backslashreplace") for line in text[:-1].split(b"\n")]
        unread = pa.array(
            [None if _is_utf8(line) else "not_utf8" for line in text[:-1].split(b"\n")], pa.string()
        )
        lines = pa.array(shown, pa.string())
    rows = pa.array(np.arange(first_row, first_row + len(ends)))
    names = pa.DictionaryArray.from_arrays(np.zeros(len(ends), np.int32), [str(file)])
    return pa.record_batch([names, rows, lines, unread], schema=SCHEMA)


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True
