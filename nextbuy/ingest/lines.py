"""Text logs as records, each with its file and the number of its line.

Files are cut here and not by a CSV reader: after a stray quote a reader takes all up to the next
quote for one cell, and those lines are lost without an error. Here a broken line is one refused
row, and its number is exact.
"""

import gzip
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError

Progress = Callable[[str], None]
"""Receives a message about what is being done and how far it is."""

CHUNK_BYTES = 1 << 23  # read at once; each chunk becomes one batch
MAX_LINE_BYTES = 1 << 24  # a longer line means that the file is no text log
MAX_RECORD_LINES = 1000  # of one quoted cell; a stray quote is looked for no further
LINES = pa.schema(
    {
        "_file": pa.dictionary(pa.int32(), pa.string()),
        "_row": pa.int64(),  # the record's first line, from 1, the header included
        "_line": pa.string(),  # without its line break
        "_unread": pa.string(),  # why the line is no text, else null
    }
)


class QuotedBreaks:
    """Finds the line breaks that stand within a quoted cell of a CSV file (RFC 4180).

    A line belongs to the record before it only if the two together are one whole record and the
    line is none by itself. Otherwise the quote is a stray one: it costs its own line alone.
    """

    def __init__(self, delimiter: str, cells: int) -> None:
        mark = re.escape(delimiter.encode())
        quoted, plain = rb'"(?:[^"]|"")*"', rb'[^"\n' + mark + rb"]*"
        cell = rb"(?:" + quoted + rb"|" + plain + rb")"
        self._opens = re.compile(rb"(?:" + cell + mark + rb')*"(?:[^"]|"")*')
        self._record = re.compile(cell + rb"(?:" + mark + cell + rb"){%d}" % (cells - 1))

    def find(self, text: bytes, ends: NDArray[np.int64], *, is_last: bool) -> tuple[list[int], int]:
        """Numbers of the lines that go on in the next one, and the first line to hold back.

        Args:
            text: whole lines.
            ends: where each of them ends.
            is_last: whether no text follows; if some does, a record may go on in it.
        """
        quotes = np.cumsum(np.frombuffer(text, np.uint8) == ord('"'))[ends]
        is_odd = np.diff(quotes, prepend=0) % 2 == 1
        odd = np.flatnonzero(is_odd).tolist()
        inner: list[int] = []
        after = 0  # the lines before this one belong to a record that is whole
        for place, first in enumerate(odd):
            if first < after or not self._opens.fullmatch(self._lines(text, ends, first, first)):
                continue
            if place + 1 < len(odd):
                last = odd[place + 1]
                if self._is_one(text, ends, first, last):
                    inner += range(first, last)
                    after = last + 1
            elif not is_last and len(ends) - first <= MAX_RECORD_LINES:
                return inner, first
        return inner, len(ends)

    def _is_one(self, text: bytes, ends: NDArray[np.int64], first: int, last: int) -> bool:
        return (
            last - first <= MAX_RECORD_LINES
            and self._record.fullmatch(self._lines(text, ends, first, last)) is not None
            and not any(
                self._record.fullmatch(self._lines(text, ends, line, line))
                for line in range(first + 1, last + 1)
            )
        )

    @staticmethod
    def _lines(text: bytes, ends: NDArray[np.int64], first: int, last: int) -> bytes:
        return text[ends[first - 1] + 1 if first else 0 : ends[last]]


class LineReader:
    """The records of some files, read once; keeps a failure that DuckDB would only quote.

    Args:
        files: what to read.
        has_header: whether the first line of each file is left out.
        breaks: finds line breaks within quotes; None where a line is a record.
        progress: receives how far the reading is.
    """

    def __init__(
        self,
        files: Sequence[Path],
        has_header: bool,
        breaks: QuotedBreaks | None,
        progress: Progress,
    ) -> None:
        self._files, self._has_header = files, has_header
        self._breaks, self._progress = breaks, progress
        self.failure: NextbuyError | None = None

    def batches(self) -> pa.RecordBatchReader:
        """Batches of `LINES`.

        Raises:
            NextbuyError: (while it is read) a file breaks off, or is not made of lines.
        """
        return pa.RecordBatchReader.from_batches(LINES, self._read())

    def _read(self) -> Iterator[pa.RecordBatch]:
        for file in self._files:
            row, rest = 1, b""
            try:
                for text, share in _whole_lines(file):
                    batch, lines, rest = self._cut(file, row, rest + text, is_last=False)
                    yield batch.slice(1) if self._has_header and row == 1 else batch
                    row += lines
                    self._progress(f"reading {file.name}: {share:.0%}")
                if rest:
                    yield self._cut(file, row, rest, is_last=True)[0]
            except (OSError, EOFError, zlib.error) as error:
                self.failure = NextbuyError(
                    f"{file} cannot be read beyond line {row - 1}: {error}. "
                    "Fetch it again, or repack what is good of it."
                )
                raise self.failure from None
            except NextbuyError as error:
                self.failure = error
                raise

    def _cut(
        self, file: Path, first_row: int, text: bytes, *, is_last: bool
    ) -> tuple[pa.RecordBatch, int, bytes]:
        """A batch of the records in whole lines, the lines it covers, and the text held back."""
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord("\n"))
        inner: list[int] = []
        held = len(ends)
        if self._breaks and b'"' in text:
            inner, held = self._breaks.find(text, ends, is_last=is_last)
        rest = text[ends[held - 1] + 1 if held else 0 :]
        text, ends = text[: len(text) - len(rest)], ends[:held]
        rows = np.arange(first_row, first_row + held)
        if inner:
            goes_on = np.zeros(held, np.bool_)
            goes_on[inner] = True
            ends, rows = ends[~goes_on], rows[np.concatenate(([True], ~goes_on[:-1]))]
        return _batch(file, rows, text, ends), held, rest


def _batch(
    file: Path, rows: NDArray[np.int64], text: bytes, ends: NDArray[np.int64]
) -> pa.RecordBatch:
    """The records of a text; each ends with a line break that is not part of it."""
    offsets = np.concatenate(([0], ends - np.arange(len(ends)))).astype(np.int32)
    if len(ends) == text.count(b"\n"):
        body = text.replace(b"\n", b"")
    else:  # some are part of a record
        body = np.delete(np.frombuffer(text, np.uint8), ends).tobytes()
    lines = pa.StringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(body))
    unread = pa.nulls(len(ends), pa.string())
    try:
        lines.validate(full=True)
    except pa.ArrowInvalid:
        split = [body[start:end] for start, end in pairwise(offsets)]
        lines = pa.array([line.decode(errors="backslashreplace") for line in split], pa.string())
        unread = pa.array([_decoding_error(line) for line in split], pa.string())
    names = pa.DictionaryArray.from_arrays(np.zeros(len(ends), np.int32), [str(file)])
    return pa.record_batch([names, pa.array(rows), lines, unread], schema=LINES)


def _decoding_error(line: bytes) -> str | None:
    try:
        line.decode()
    except UnicodeDecodeError:
        return "not_utf8"
    return None


@contextmanager
def open_text(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The file's text, gunzipped if need be, and the file itself, to see how far it is read."""
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
        rest, first = b"", True
        while chunk := text.read(CHUNK_BYTES):
            if first:
                chunk, first = chunk.removeprefix(b"\xef\xbb\xbf"), False
            data = rest + chunk
            end = data.rfind(b"\n") + 1
            rest = data[end:]
            if len(rest) > MAX_LINE_BYTES:
                raise NextbuyError(
                    f"{path} holds a line of more than {MAX_LINE_BYTES >> 20} MB. Is it a text log?"
                )
            if end:
                yield data[:end], file.tell() / size
        if rest:
            yield rest + b"\n", 1.0
