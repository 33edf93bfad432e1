"""Log files as rows of text columns, each with its file and its line.

Text logs are cut into lines here and into cells in SQL, rather than by a CSV reader: a reader that
meets a stray quote takes the lines up to the next one for a single cell, and they are lost without
a word. Line by line, a broken line is one refused row, and its number is exact.
"""

import csv
import glob
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from nextbuy.errors import NextbuyError, explain_refusal
from nextbuy.events import REQUIRED
from nextbuy.ingest.lines import LONGEST_LINE, Lines, Progress, open_text
from nextbuy.ingest.source import Column, Expression, Layout
from nextbuy.sql import literal

SAMPLE = 1000  # JSON lines looked at to learn which columns there are
RESERVED = {"_file", "_row", "_line", "_broken", "_cells", "_whole"}


def find_files(logs: Sequence[str | Path]) -> list[Path]:
    """Every file that the paths and globs stand for, each once, in order of path.

    Raises:
        NextbuyError: a path or glob stands for no file.
    """
    found: set[Path] = set()
    for log in logs:
        if Path(log).is_dir():
            raise NextbuyError(f"{log} is a folder. Name its files, for example '{log}/*.csv'.")
        paths = [str(log)] if Path(log).exists() else _matches(str(log))
        files = [Path(path) for path in paths if Path(path).is_file()]
        if not files:
            raise NextbuyError(f"There is no file {log}. Check the path or the glob.")
        found.update(files)
    return sorted(found)


class Rows(NamedTuple):
    """The rows of some files, for use in SQL."""

    relation: str
    """Relation with `_file`; `_row`, the line of a text file (its header counts) or the row of a
    Parquet file, from 1; `_broken`, why the row could not be cut into columns, else NULL; and the
    log's own columns. It can be read once."""
    carried: str
    """The columns of `relation` that `raw` is made from."""
    raw: str
    """Expression: the row as JSON text. Costly, so ask for it where it is needed only."""
    texts: dict[str, str]
    """What was asked for -> expression: its text, NULL where there is no value."""


def _matches(pattern: str) -> list[str]:
    return glob.glob(pattern, recursive=True)  # noqa: PTH207  # Path takes no absolute pattern


@contextmanager
def open_rows(
    connection: duckdb.DuckDBPyConnection,
    layout: Layout,
    files: Sequence[Path],
    asked: Mapping[str, Column],
    explode: str | None = None,
    progress: Progress = lambda _: None,
) -> Iterator[Rows]:
    """Open files for one reading.

    Args:
        connection: where the relation lives.
        layout: how the files are written.
        files: what to read.
        asked: setting -> the column it names, for the message where there is none.
        explode: path of an array in a JSON log; a row for each of its elements.
        progress: told how far the reading is.

    Raises:
        NextbuyError: a file cannot be read to its end, or a column is not there.
    """
    lines = Lines(files, layout.format == "csv" and not layout.columns, progress)
    try:
        if layout.format == "parquet":
            progress(f"reading {_some(files)}")
            rows = _parquet(layout, files, asked)
        else:
            connection.register("_lines", lines.reader())
            cut = _csv if layout.format == "csv" else _json
            rows = cut(layout, files, asked, explode)
        for setting, column in asked.items():
            if isinstance(column, Expression):
                _try_out(connection, setting, column, rows.relation)
        yield rows
    except duckdb.Error as error:
        if lines.failure:
            raise lines.failure from None
        told = explain_refusal(error)  # what is read is also written, to a disk that may be full
        raise NextbuyError(told or f"{_some(files)} cannot be read: {error}") from None
    finally:
        if layout.format != "parquet":
            connection.unregister("_lines")


def ident(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def _csv(layout: Layout, files: Sequence[Path], asked: Mapping[str, Column], _: str | None) -> Rows:
    columns = list(layout.columns)
    if not columns:
        columns = _header(files[0], layout.delimiter)
        for file in files[1:]:
            other = _header(file, layout.delimiter)
            if other != columns:
                raise NextbuyError(
                    f"{file} has the columns {', '.join(other)}, but {files[0]} has "
                    f"{', '.join(columns)}. Ingest them one after the other."
                )
    _require(files[0], asked, columns)
    comma, code = literal(layout.delimiter), f"\\x{{{ord(layout.delimiter):x}}}"
    cell = literal(f'{code}("(?:[^"]|"")*"|[^"{code}]*)')
    named = ", ".join(
        f"{_value(f'_cells[{i}]', layout)} AS {ident(name)}" for i, name in enumerate(columns, 1)
    )
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
                WHEN len(_cells) <> {len(columns)} THEN 'wrong_number_of_cells' END AS _broken
            FROM cut
        )
        SELECT _file, _row, _line, _broken, _cells, {named} FROM checked)"""
    pairs = ", ".join(f"{literal(name)}, _cells[{i}]" for i, name in enumerate(columns, 1))
    raw = f"CASE WHEN _broken IS NULL THEN json_object({pairs}) ELSE json_object('line', _line) END"
    texts = {setting: _text(column) for setting, column in asked.items()}
    return Rows(relation, "_line, _cells", raw, texts)


def _json(
    layout: Layout, files: Sequence[Path], asked: Mapping[str, Column], explode: str | None
) -> Rows:
    names = list(dict.fromkeys(name for name in asked.values() if isinstance(name, str)))
    inner = [name for name in names if explode and name.startswith(f"{explode}.")]
    top = [name for name in names if name not in inner]
    # A JSON log may leave out what is null, so only what every event has must be seen.
    must = {f"fields.{name}" for name in REQUIRED}
    required = {key: name for key, name in asked.items() if key in must and name not in inner}
    _require(files[0], required, _json_keys(files), nested=True)
    elements = f"json_extract(_line, {literal(_path(explode or '') + '[*]')})"
    element = f"CASE WHEN _broken IS NULL AND len({elements}) > 0 THEN {elements} ELSE [NULL] END"
    cells = {
        "_top": f"CASE WHEN _broken IS NULL THEN {_extract('_line', top)} END",
        "_inner": _extract("_element", [name.removeprefix(f"{explode}.") for name in inner]),
    }
    named = [
        f"{_value(f'{part}[{i}]', layout)} AS {ident(name)}"
        for part, of in (("_top", top), ("_inner", inner))
        for i, name in enumerate(of, 1)
    ]
    relation = f"""(
        WITH checked AS (
            SELECT *, CASE WHEN _unread IS NOT NULL THEN _unread WHEN NOT json_valid(_line)
                OR json_type(_line) <> 'OBJECT' THEN 'not_a_json_object' END AS _broken
            FROM _lines WHERE _line <> ''
        ), exploded AS (
            SELECT *, {f"unnest({element})" if explode else "NULL"} AS _element FROM checked
        ), cut AS (
            SELECT *, {", ".join(f"{cell} AS {name}" for name, cell in cells.items())}
            FROM exploded
        )
        SELECT {", ".join(["_file", "_row", "_line", "_broken", *named])} FROM cut)"""
    raw = "CASE WHEN _broken IS NULL THEN _line ELSE json_object('line', _line) END"
    texts = {setting: _text(column) for setting, column in asked.items()}
    return Rows(relation, "_line", raw, texts)


def _parquet(layout: Layout, files: Sequence[Path], asked: Mapping[str, Column]) -> Rows:
    try:
        schema = pq.read_schema(files[0])
        for file in files[1:]:
            if not pq.read_schema(file).equals(schema):
                raise NextbuyError(
                    f"{file} has other columns or types than {files[0]}. "
                    "Ingest them one after the other."
                )
    except (pa.ArrowInvalid, OSError) as error:
        raise NextbuyError(f"{_some(files)} cannot be read as Parquet: {error}.") from None
    _require(files[0], asked, schema.names, nested=True)
    whole = ", ".join(f"{ident(name)} := {ident(name)}" for name in schema.names)
    relation = f"""(
        SELECT *, file_row_number + 1 AS _row, NULL AS _broken, struct_pack({whole}) AS _whole
        FROM read_parquet([{", ".join(map(literal, files))}], filename = '_file',
            file_row_number = true, hive_partitioning = false))"""
    texts = {}
    for setting, column in asked.items():
        nested = isinstance(column, str) and column not in schema.names
        cell = ".".join(map(ident, str(column).split("."))) if nested else _text(column)
        texts[setting] = _value(f"CAST({cell} AS VARCHAR)", layout)
    return Rows(relation, "_whole", "to_json(_whole)", texts)


def _header(file: Path, delimiter: str) -> list[str]:
    try:
        with open_text(file) as (text, _):
            line = text.readline(LONGEST_LINE).decode("utf-8-sig").rstrip("\r\n")
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
    seen: dict[str, None] = {}
    for file in files:
        try:
            with open_text(file) as (text, _):
                for line in islice(text, SAMPLE):
                    try:
                        content = json.loads(line)
                    except ValueError:
                        continue  # the row will be refused with its number
                    if isinstance(content, dict):
                        seen.update(dict.fromkeys(content))
        except (OSError, EOFError, zlib.error) as error:
            raise NextbuyError(f"{file} cannot be read: {error}. Fetch it again.") from None
    if not seen:
        raise NextbuyError(
            f"{_some(files)} holds no JSON object in its first lines. Write one object per line."
        )
    return list(seen)


def _require(
    file: Path, asked: Mapping[str, Column], seen: Sequence[str], nested: bool = False
) -> None:
    if taken := sorted(RESERVED & set(seen)):
        raise NextbuyError(
            f"{file} has a column {taken[0]!r}; rename it, ingestion uses it itself."
        )
    for setting, column in asked.items():
        if isinstance(column, Expression) or column in seen:
            continue
        if not nested or column.split(".")[0] not in seen:
            raise NextbuyError(
                f"{file} has no column {column!r}, which the source file names under {setting}. "
                f"Its columns are: {', '.join(seen)}. Correct {setting}, or leave it out if the "
                "log has nothing of the kind."
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


def _text(column: Column) -> str:
    return ident(column) if isinstance(column, str) else f"CAST(({column.sql}) AS VARCHAR)"


def _value(text: str, layout: Layout) -> str:
    nulls = ", ".join(map(literal, layout.nulls))
    return f"CASE WHEN {text} NOT IN ({nulls}) THEN {text} END" if nulls else text


def _extract(document: str, names: Sequence[str]) -> str:
    paths = ", ".join(literal(_path(name)) for name in names)
    return f"json_extract_string({document}, [{paths}])" if names else "NULL"


def _path(name: str) -> str:
    """The JSON path of a dotted name; quotes in it are the name's own."""
    return "$" + "".join(f'."{part}"' for part in name.split("."))


def _some(files: Sequence[Path]) -> str:
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return ", ".join(str(file) for file in files[:3]) + more
