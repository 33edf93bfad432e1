"""Log files as rows of text columns, each with its file and its line, for use in SQL."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb

from nextbuy.errors import NextbuyError, explain_refusal
from nextbuy.ingest.columns import ColumnSpecs, column_specs, not_understood
from nextbuy.ingest.csv_log import column_names, csv_rows
from nextbuy.ingest.json_log import json_rows
from nextbuy.ingest.lines import LineReader, Progress, QuotedBreaks
from nextbuy.ingest.parquet_log import parquet_columns, parquet_rows
from nextbuy.ingest.rows import LogRows
from nextbuy.ingest.source import ColumnSpec, Expression, FileFormat, Source
from nextbuy.versioned_table import fingerprint

MAX_TRIED = 10_000  # rows looked at, to name the one that an expression fails on


def layout(source: Source, files: Sequence[Path]) -> str:
    """What tells apart the logs of a shop: the input's name, else the columns in their order.

    JSON logs have no fixed columns, so without a name all of them are one layout.
    """
    if source.input:
        return source.input
    if source.format == "csv":
        return fingerprint(column_names(source, files))[:12]
    return fingerprint(parquet_columns(files))[:12] if source.format == "parquet" else ""


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
        explode: the list in a row that becomes a row for each of its elements.
        progress: receives how far the reading is.

    Raises:
        NextbuyError: a file cannot be read to its end, a column is missing, or an expression
            cannot be computed.
    """
    specs = column_specs(connection, columns)
    names = column_names(file_format, files) if file_format.format == "csv" else []
    breaks = QuotedBreaks(file_format.delimiter, len(names)) if len(names) > 1 else None
    has_header = file_format.format == "csv" and not file_format.columns
    reader = LineReader(files, has_header, breaks, progress)
    try:
        if file_format.format == "parquet":
            progress(f"reading {_listed(files)}")
            rows = parquet_rows(file_format, files, specs, explode)
        else:
            connection.register("_lines", reader.batches())
            if file_format.format == "csv":
                rows = csv_rows(file_format, files, names, specs, explode)
            else:
                rows = json_rows(file_format, files, specs, explode)
        for setting, column in columns.items():
            if isinstance(column, Expression):
                _try_out(connection, setting, column, rows.relation)
        yield rows
    except duckdb.Error as error:
        if reader.failure:
            raise reader.failure from None
        refusal = explain_refusal(error)  # what is read is also written, to a disk that may be full
        if refusal is None and specs.used:
            if file_format.format != "parquet":
                again = LineReader(files, has_header, breaks, lambda _: None)
                connection.register("_lines", again.batches())
            refusal = _failing_row(connection, rows, specs)
        raise NextbuyError(refusal or f"{_listed(files)} cannot be read: {error}") from None
    finally:
        if file_format.format != "parquet":
            connection.unregister("_lines")


def _try_out(
    connection: duckdb.DuckDBPyConnection, setting: str, column: Expression, relation: str
) -> None:
    try:
        connection.execute(f"EXPLAIN SELECT ({column.sql}) FROM {relation}")
    except duckdb.Error as error:
        raise not_understood(setting, column.sql, error) from None


def _failing_row(
    connection: duckdb.DuckDBPyConnection, rows: LogRows, specs: ColumnSpecs
) -> str | None:
    """Name the first row that an expression fails on; None where no expression does."""
    candidates = " OR ".join(f"TRY({specs.sql(key)}) IS NULL" for key in specs.used)
    if not candidates:
        return None
    try:
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE tried AS SELECT * FROM {rows.relation} "
            f"WHERE {candidates} LIMIT {MAX_TRIED}"
        )
    except duckdb.Error:
        return None
    places = connection.execute("SELECT rowid, _file, _row FROM tried ORDER BY _file, _row")
    for rowid, file, row in places.fetchall():
        for setting in specs.used:
            sql = specs.sql(setting)
            try:
                connection.execute(f"SELECT ({sql}) FROM tried WHERE rowid = {rowid}")
            except duckdb.Error as error:
                cause = str(error).strip().splitlines()[0]
                return (
                    f"{file}, row {row}: {setting} cannot be computed by {sql!r}: {cause}. Correct "
                    "the value at its source, or write the expression so that it gives NULL there "
                    "(try_cast, try_strptime)."
                )
    return None


def _listed(files: Sequence[Path]) -> str:
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return ", ".join(str(file) for file in files[:3]) + more
