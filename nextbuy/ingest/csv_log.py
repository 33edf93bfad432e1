"""CSV files as rows of text columns: records are cut in Python, cells in SQL."""

import csv
import zlib
from collections.abc import Sequence
from pathlib import Path

from nextbuy.errors import NextbuyError
from nextbuy.ingest.columns import ColumnSpecs, named
from nextbuy.ingest.lines import MAX_LINE_BYTES, open_text
from nextbuy.ingest.rows import Elements, LogRows, value_of
from nextbuy.ingest.source import FileFormat
from nextbuy.sql import literal


def column_names(file_format: FileFormat, files: Sequence[Path]) -> list[str]:
    """The columns of CSV files in order: those of the format, else those of the first line.

    Raises:
        NextbuyError: a first line cannot be read, or the files have different ones.
    """
    if file_format.columns:
        return list(file_format.columns)
    names = _header(files[0], file_format.delimiter)
    for file in files[1:]:
        other = _header(file, file_format.delimiter)
        if other != names:
            raise NextbuyError(
                f"{file} has the columns {', '.join(other)}, but {files[0]} has "
                f"{', '.join(names)}. Ingest them one after the other."
            )
    return names


def csv_rows(
    file_format: FileFormat,
    files: Sequence[Path],
    names: Sequence[str],
    specs: ColumnSpecs,
    explode: str | None,
) -> LogRows:
    """The records in `_lines` as rows; `explode` names a column with a list in JSON.

    Raises:
        NextbuyError: a column is missing, or its name does not tell which one it is.
    """
    elements = Elements(explode)
    outer = {key: name for key, name in specs.plain.items() if not elements.holds(name)}
    specs.check(files[0], names, outer | ({"explode": explode} if explode else {}))
    comma, code = literal(file_format.delimiter), f"\\x{{{ord(file_format.delimiter):x}}}"
    cell = literal(f'{code}("(?:[^"]|"")*"|[^"{code}]*)')
    # By position, because SQL does not tell `Id` from `id`.
    cells = {name: value_of(f"_cells[{i}]", file_format) for i, name in enumerate(names, 1)}
    cut = f"""(
        WITH cut AS (
            SELECT *, CASE WHEN NOT contains(_line, '"') THEN string_split(_line, {comma})
                ELSE list_transform(regexp_extract_all({comma} || _line, {cell}, 1),
                    lambda cell: CASE WHEN starts_with(cell, '"')
                        THEN replace(cell[2:-2], '""', '"') ELSE cell END) END AS _cells
            FROM _lines WHERE _line <> ''
        )
        SELECT *, CASE WHEN _unread IS NOT NULL THEN _unread
            WHEN contains(_line, '"') AND
                regexp_replace({comma} || _line, {cell}, '', 'g') <> '' THEN 'stray_quote'
            WHEN len(_cells) <> {len(names)} THEN 'wrong_number_of_cells' END AS _broken
        FROM cut)"""
    visible = specs.visible(files[0], names)
    inner = elements.cells(specs.names, [], file_format)
    if explode:  # a cell that is no JSON is no list either
        text = f"CASE WHEN _broken IS NULL THEN {cells[explode]} END"
        listed = f"CASE WHEN json_valid({text}) THEN {text}::JSON ELSE to_json({text}) END"
        cut = elements.exploded(cut, listed)
    else:
        cut = elements.exploded(cut, "NULL")
    columns = named(cells | inner, [*visible, *inner])
    pairs = ", ".join(f"{literal(name)}, _cells[{i}]" for i, name in enumerate(names, 1))
    raw = f"CASE WHEN _broken IS NULL THEN json_object({pairs}) ELSE json_object('line', _line) END"
    return LogRows(
        f"(SELECT {', '.join(['*', *columns])} FROM {cut})",
        "_line, _cells",
        raw,
        specs.texts(cells | inner),
        specs.of(set(inner)),
    )


def _header(file: Path, delimiter: str) -> list[str]:
    try:
        with open_text(file) as (text, _):
            line = text.readline(MAX_LINE_BYTES).decode("utf-8-sig").rstrip("\r\n")
        names = next(csv.reader([line], delimiter=delimiter), [])
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise NextbuyError(
            f"The first line of {file} cannot be read: {error}. Is it a CSV file in UTF-8?"
        ) from None
    if not names:
        raise NextbuyError(f"{file} is empty: its first line should name the columns.")
    return names
