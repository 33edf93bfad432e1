"""Log files as rows of text columns, each with its file and its line.

Text logs are cut into lines here and into cells in SQL, not by a CSV reader: after a stray quote it
takes all up to the next quote for one cell, and those lines are lost without an error. Line by
line, a broken line is one refused row, and its number is exact.
"""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nextbuy.errors import NextbuyError, explain_refusal
from nextbuy.events import REQUIRED
from nextbuy.ingest.source import ColumnSpec, Expression, FileFormat
from nextbuy.sql import identifier, literal

Progress = Callable[[str], None]
"""Receives a message about what is being done and how far it is."""

CHUNK_BYTES = 1 << 23  # read at once; each chunk becomes one batch
MAX_LINE_BYTES = 1 << 24  # a longer line means that the file is no text log
SAMPLE_LINES = 1000  # of a JSON log, read to learn which columns it has
RESERVED = {"_file", "_row", "_line", "_broken", "_cells", "_element_cells", "_whole"}
LINES = pa.schema(
    {
        "_file": pa.dictionary(pa.int32(), pa.string()),
        "_row": pa.int64(),  # from 1, the header included
        "_line": pa.string(),  # without its line break
        "_unread": pa.string(),  # why the line is no text, else null
    }
)


class LogRows(NamedTuple):
    """The rows of some files, for use in SQL."""

    relation: str
    """Relation with `_file`; `_row`, the line of a text file (its header counts) or the row of a
    Parquet file, from 1; `_broken`, why the row could not be cut into columns, else NULL; and the
    log's own columns. It can be read once."""
    carried: str
    """The columns of `relation` that `raw` is made from."""
    raw: str
    """Expression: the row as JSON text. Costly, so use it only for the rows that need it."""
    texts: dict[str, str]
    """Setting -> expression: the text of its column, NULL without a value."""


@contextmanager
def open_rows(
    connection: duckdb.DuckDBPyConnection,
    file_format: FileFormat,
    files: Sequence[Path],
    columns: Mapping[str, ColumnSpec],
    explode: str | None = None,
    progress: Progress = lambda _: None,
) -> Iterator[LogRows]:
    """Open files for one reading.

    Args:
        connection: where the relation lives.
        file_format: how the files are written.
        files: what to read.
        columns: setting -> the column it names; the setting is for the message if it is missing.
        explode: path of an array in a JSON log; a row for each of its elements.
        progress: receives how far the reading is.

    Raises:
        NextbuyError: a file cannot be read to its end, or a column is missing.
    """
    reader = LineReader(files, file_format.format == "csv" and not file_format.columns, progress)
    try:
        if file_format.format == "parquet":
            progress(f"reading {_listed(files)}")
            rows = _parquet_rows(file_format, files, columns)
        else:
            connection.register("_lines", reader.batches())
            if file_format.format == "csv":
                rows = _csv_rows(file_format, files, columns)
            else:
                rows = _json_rows(file_format, files, columns, explode)
        for setting, column in columns.items():
            if isinstance(column, Expression):
                _try_out(connection, setting, column, rows.relation)
        yield rows
    except duckdb.Error as error:
        if reader.failure:
            raise reader.failure from None
        refusal = explain_refusal(error)  # what is read is also written, to a disk that may be full
        raise NextbuyError(refusal or f"{_listed(files)} cannot be read: {error}") from None
    finally:
        if file_format.format != "parquet":
            connection.unregister("_lines")


def _csv_rows(
    file_format: FileFormat, files: Sequence[Path], columns: Mapping[str, ColumnSpec]
) -> LogRows:
    names = list(file_format.columns)
    if not names:
        names = _header(files[0], file_format.delimiter)
        for file in files[1:]:
            other = _header(file, file_format.delimiter)
            if other != names:
                raise NextbuyError(
                    f"{file} has the columns {', '.join(other)}, but {files[0]} has "
                    f"{', '.join(names)}. Ingest them one after the other."
                )
    _require(files[0], columns, names)
    comma, code = literal(file_format.delimiter), f"\\x{{{ord(file_format.delimiter):x}}}"
    cell = literal(f'{code}("(?:[^"]|"")*"|[^"{code}]*)')
    # By position, because SQL does not tell `Id` from `id`.
    cells = {name: _value(f"_cells[{i}]", file_format) for i, name in enumerate(names, 1)}
    named = ", ".join(f"{text} AS {identifier(name)}" for name, text in cells.items())
    relation = f"""(
        WITH cut AS (
            SELECT *, CASE WHEN NOT contains(_line, '"') THEN string_split(_line, {comma})
                ELSE list_transform(regexp_extract_all({comma} || _line, {cell}, 1),
                    lambda cell: CASE WHEN starts_with(cell, '"')
                        THEN replace(cell[2:-2], '""', '"') ELSE cell END) END AS _cells
            FROM _lines WHERE _line <> ''
        ), checked AS (
            SELECT *, CASE WHEN _unread IS NOT NULL THEN _unread
                WHEN contains(_line, '"') AND
                    regexp_replace({comma} || _line, {cell}, '', 'g') <> '' THEN 'stray_quote'
                WHEN len(_cells) <> {len(names)} THEN 'wrong_number_of_cells' END AS _broken
            FROM cut
        )
        SELECT _file, _row, _line, _broken, _cells, {named} FROM checked)"""
    pairs = ", ".join(f"{literal(name)}, _cells[{i}]" for i, name in enumerate(names, 1))
    raw = f"CASE WHEN _broken IS NULL THEN json_object({pairs}) ELSE json_object('line', _line) END"
    texts = {setting: _text(column, cells) for setting, column in columns.items()}
    return LogRows(relation, "_line, _cells", raw, texts)


def _json_rows(
    file_format: FileFormat,
    files: Sequence[Path],
    columns: Mapping[str, ColumnSpec],
    explode: str | None,
) -> LogRows:
    names = list(dict.fromkeys(name for name in columns.values() if isinstance(name, str)))
    inner = [name for name in names if explode and name.startswith(f"{explode}.")]
    top = [name for name in names if name not in inner]
    # A JSON log may leave out what is null, so only what every event has must be there.
    must = {f"fields.{name}" for name in REQUIRED}
    required = {key: name for key, name in columns.items() if key in must and name not in inner}
    _require(files[0], required, _json_keys(files), nested=True)
    elements = f"json_extract(_line, {literal(_path(explode or '') + '[*]')})"
    element = f"CASE WHEN _broken IS NULL AND len({elements}) > 0 THEN {elements} ELSE [NULL] END"
    top_cells = f"CASE WHEN _broken IS NULL THEN {_extract('_line', top)} END"
    inner_cells = _extract("_element", [name.removeprefix(f"{explode}.") for name in inner])
    cells = {name: _value(f"_cells[{i}]", file_format) for i, name in enumerate(top, 1)}
    cells |= {name: _value(f"_element_cells[{i}]", file_format) for i, name in enumerate(inner, 1)}
    named = [f"{text} AS {identifier(name)}" for name, text in cells.items()]
    relation = f"""(
        WITH checked AS (
            SELECT *, CASE WHEN _unread IS NOT NULL THEN _unread WHEN NOT json_valid(_line)
                OR json_type(_line) <> 'OBJECT' THEN 'not_a_json_object' END AS _broken
            FROM _lines WHERE _line <> ''
        ), exploded AS (
            SELECT *, {f"unnest({element})" if explode else "NULL"} AS _element FROM checked
        ), cut AS (
            SELECT *, {top_cells} AS _cells, {inner_cells} AS _element_cells FROM exploded
        )
        SELECT {", ".join(["_file, _row, _line, _broken, _cells, _element_cells", *named])}
        FROM cut)"""
    raw = "CASE WHEN _broken IS NULL THEN _line ELSE json_object('line', _line) END"
    texts = {setting: _text(column, cells) for setting, column in columns.items()}
    return LogRows(relation, "_line", raw, texts)


def _parquet_rows(
    file_format: FileFormat, files: Sequence[Path], columns: Mapping[str, ColumnSpec]
) -> LogRows:
    try:
        schema = pq.read_schema(files[0])
        for file in files[1:]:
            if not pq.read_schema(file).equals(schema):
                raise NextbuyError(
                    f"{file} has other columns or types than {files[0]}. "
                    "Ingest them one after the other."
                )
    except (pa.ArrowInvalid, OSError) as error:
        raise NextbuyError(f"{_listed(files)} cannot be read as Parquet: {error}.") from None
    _require(files[0], columns, schema.names, nested=True)
    whole = ", ".join(f"{identifier(name)} := {identifier(name)}" for name in schema.names)
    relation = f"""(
        SELECT *, file_row_number + 1 AS _row, NULL AS _broken, struct_pack({whole}) AS _whole
        FROM read_parquet([{", ".join(map(literal, files))}], filename = '_file',
            file_row_number = true, hive_partitioning = false))"""
    cells = {name: identifier(name) for name in schema.names}
    for column in columns.values():
        if isinstance(column, str) and column not in cells:
            cells[column] = ".".join(map(identifier, column.split(".")))
    texts = {
        setting: _value(f"CAST({_text(column, cells)} AS VARCHAR)", file_format)
        for setting, column in columns.items()
    }
    return LogRows(relation, "_whole", "to_json(_whole)", texts)


class LineReader:
    """The lines of some files, read once; keeps a failure that DuckDB would only quote."""

    def __init__(self, files: Sequence[Path], has_header: bool, progress: Progress) -> None:
        self._files, self._has_header, self._progress = files, has_header, progress
        self.failure: NextbuyError | None = None

    def batches(self) -> pa.RecordBatchReader:
        """Batches of `LINES`.

        Raises:
            NextbuyError: (while it is read) a file breaks off, or is not made of lines.
        """
        return pa.RecordBatchReader.from_batches(LINES, self._read())

    def _read(self) -> Iterator[pa.RecordBatch]:
        for file in self._files:
            row = 1
            try:
                for text, share in _whole_lines(file):
                    batch = _batch(file, row, text)
                    yield batch.slice(1) if self._has_header and row == 1 else batch
                    row += batch.num_rows
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
def _open_text(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
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
    with _open_text(path) as (text, file):
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
        split = text[:-1].split(b"\n")
        lines = pa.array([line.decode(errors="backslashreplace") for line in split], pa.string())
        unread = pa.array([_decoding_error(line) for line in split], pa.string())
    rows = pa.array(np.arange(first_row, first_row + len(ends)))
    names = pa.DictionaryArray.from_arrays(np.zeros(len(ends), np.int32), [str(file)])
    return pa.record_batch([names, rows, lines, unread], schema=LINES)


def _decoding_error(line: bytes) -> str | None:
    try:
        line.decode()
    except UnicodeDecodeError:
        return "not_utf8"
    return None


def _header(file: Path, delimiter: str) -> list[str]:
    try:
        with _open_text(file) as (text, _):
            line = text.readline(MAX_LINE_BYTES).decode("utf-8-sig").rstrip("\r\n")
        names = next(csv.reader([line], delimiter=delimiter), [])
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise NextbuyError(
            f"The first line of {file} cannot be read: {error}. Is it a CSV file in UTF-8?"
        ) from None
    if not names:
        raise NextbuyError(f"{file} is empty: its first line should name the columns.")
    if len(set(names)) < len(names):
        raise NextbuyError(
            f"{file} names a column twice: {', '.join(names)}. Name its columns in the source "
            "file if its first line is no header."
        )
    return names


def _json_keys(files: Sequence[Path]) -> list[str]:
    """Top-level keys in the first lines of each file."""
    keys: dict[str, None] = {}
    for file in files:
        try:
            with _open_text(file) as (text, _):
                for line in islice(text, SAMPLE_LINES):
                    try:
                        content = json.loads(line)
                    except ValueError:
                        continue  # the row will be refused with its number
                    if isinstance(content, dict):
                        keys.update(dict.fromkeys(content))
        except (OSError, EOFError, zlib.error) as error:
            raise NextbuyError(f"{file} cannot be read: {error}. Fetch it again.") from None
    if not keys:
        raise NextbuyError(
            f"{_listed(files)} holds no JSON object in its first lines. Write one object per line."
        )
    return list(keys)


def _require(
    file: Path, columns: Mapping[str, ColumnSpec], available: Sequence[str], nested: bool = False
) -> None:
    if reserved := sorted(RESERVED & set(available)):
        raise NextbuyError(f"{file} has a column {reserved[0]!r}; rename it: the name is reserved.")
    for setting, column in columns.items():
        if isinstance(column, Expression) or column in available:
            continue
        if not nested or column.split(".")[0] not in available:
            raise NextbuyError(
                f"{file} has no column {column!r}, which the source file names under {setting}. "
                f"Its columns are: {', '.join(available)}. Correct {setting}, or leave it out if "
                "the log has nothing of the kind."
            )


def _try_out(
    connection: duckdb.DuckDBPyConnection, setting: str, column: Expression, relation: str
) -> None:
    try:
        connection.execute(f"EXPLAIN SELECT ({column.sql}) FROM {relation}")
    except duckdb.Error as error:
        raise NextbuyError(
            f"{setting}: DuckDB does not understand {column.sql!r}: {error}. Correct it in the "
            "source file."
        ) from None


def _text(column: ColumnSpec, cells: Mapping[str, str]) -> str:
    """The SQL of a column's text; `cells` has it for the columns that have a name."""
    return cells[column] if isinstance(column, str) else f"CAST(({column.sql}) AS VARCHAR)"


def _value(text: str, file_format: FileFormat) -> str:
    nulls = ", ".join(map(literal, file_format.nulls))
    return f"CASE WHEN {text} NOT IN ({nulls}) THEN {text} END" if nulls else text


def _extract(document: str, names: Sequence[str]) -> str:
    paths = ", ".join(literal(_path(name)) for name in names)
    return f"json_extract_string({document}, [{paths}])" if names else "NULL"


def _path(name: str) -> str:  # the JSON path of a dotted name; quotes in it are its own
    return "$" + "".join(f'."{part}"' for part in name.split("."))


def _listed(files: Sequence[Path]) -> str:
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return ", ".join(str(file) for file in files[:3]) + more
