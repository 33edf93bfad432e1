"""A Feast data source as a DuckDB relation with known columns and types."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.infra.offline_stores.duckdb import _read_data_source
from feast.infra.offline_stores.file_source import FileSource

from nextbuy.errors import NextbuyError
from nextbuy.sql import identifier, literal

ROWS_PER_FILE = 2**40  # more than any Parquet file has: rows are numbered through all files


@dataclass(frozen=True)
class Relation:
    """A source bound to a connection."""

    sql: str
    """What stands after FROM."""
    row_number: str
    """What identifies a row: an integer expression, the same in every scan of one query."""
    types: dict[str, str]
    """Column -> DuckDB type, in the source's order."""
    title: str
    """How a message names the source."""

    def require(self, columns: Iterable[str]) -> None:
        """Check that the source has these columns.

        Raises:
            NextbuyError: names the missing columns and what the source has instead.
        """
        missing = [column for column in columns if column not in self.types]
        if missing:
            raise NextbuyError(
                f"{self.title} has no column {', '.join(map(repr, missing))}; it has "
                f"{', '.join(self.types)}. Correct the feature view's schema, the source's "
                "field_mapping, or make the table again."
            )


def relation(
    connection: duckdb.DuckDBPyConnection, source: DataSource, repo_path: str | Path | None
) -> Relation:
    """Bind a source to `connection`.

    Parquet is read in place: one file, a glob, or a folder with Parquet files at any depth (a
    published table of ours: a link to its version, day by day; the day is not a column). Other
    sources are read through Feast's own DuckDB store.

    Raises:
        NextbuyError: no file exists, or the files disagree on their columns or types.
    """
    if not isinstance(source, FileSource) or not isinstance(
        source.file_format, ParquetFormat | None
    ):
        table = _read_data_source(source, str(repo_path)).to_pyarrow()
        name = f"source_{id(source)}"
        connection.register(f"{name}_arrow", table)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS FROM {name}_arrow")
        sql, row_number, title = name, "rowid", f"source {source.name!r}"
    else:
        listed = ", ".join(map(literal, parquet_files(source, repo_path)))
        row_number = f"(file_index::BIGINT * {ROWS_PER_FILE} + file_row_number)"
        title = source.path
        untyped = _check_equal_schemas(connection, listed, title)
        # The files' folders are no columns, whatever they are called. The types come from the first
        # file, unless a column has no value and so no type in some file.
        union = ", union_by_name = true" if untyped else ""
        sql = f"read_parquet([{listed}], hive_partitioning = false{union})"
    described = connection.execute(f"DESCRIBE SELECT * FROM {sql}").fetchall()
    return Relation(sql, row_number, {name: kind for name, kind, *_ in described}, title)


def parquet_files(source: FileSource, repo_path: str | Path | None) -> list[str]:
    """The Parquet files of a source, sorted; a network address is left to DuckDB.

    Raises:
        NextbuyError: the source has no files.
    """
    uri = FileSource.get_uri_for_file_path(repo_path, source.path)
    if "://" in uri:
        return [uri]
    path = Path(os.path.realpath(uri))  # a link is followed once: one version for the whole query
    if path.is_file():
        return [str(path)]
    if path.is_dir():
        files = sorted(str(file) for file in path.rglob("*.parquet"))
    else:
        globbed = duckdb.execute("SELECT file FROM glob(?) ORDER BY file", [uri]).fetchall()
        files = [file for (file,) in globbed]
    if not files:
        raise NextbuyError(
            f"{uri} holds no Parquet file (source {source.name!r}). Make the table first, or "
            "correct the source's path."
        )
    return files


def _check_equal_schemas(connection: duckdb.DuckDBPyConnection, listed: str, title: str) -> bool:
    """Refuse what DuckDB would cast to the first file's types, 1.5 to the integer 2 among it.

    Returns whether a column is of Parquet's type for "no value at all" in some file.
    """
    untyped = False
    types: dict[str, dict[str, str]] = {}
    files: set[str] = set()
    elements = connection.execute(
        "SELECT file_name, name, duckdb_type, logical_type, coalesce(num_children, 0) "
        f"FROM parquet_schema([{listed}]) ORDER BY file_name, column_id"
    ).fetchall()
    below = 0  # elements still to come that are parts of a nested column
    for file, name, kind, logical, children in elements:
        if file not in files:  # the root; its children are the columns
            files.add(file)
            below = 0
        elif below:
            below += children - 1
        else:
            below = children
            if logical == "NullType()":
                untyped = True
            else:
                types.setdefault(name, {}).setdefault(kind or "nested", file)
    for name, kinds in types.items():
        if len(kinds) > 1:
            listed = ", ".join(f"{kind} in {file}" for kind, file in sorted(kinds.items()))
            raise NextbuyError(
                f"The files of {title} disagree on the type of {name!r}: {listed}. Make the table "
                "again so that all files have one type."
            )
    _check_all_have(types, elements, files, title)
    return untyped


def _check_all_have(
    types: Iterable[str], elements: list[tuple[str, ...]], files: set[str], title: str
) -> None:
    has: dict[str, set[str]] = {}
    for file, name, *_ in elements:
        has.setdefault(name, set()).add(file)
    for name in types:
        if lacking := files - has[name]:
            raise NextbuyError(
                f"{len(lacking)} of the {len(files)} files of {title} lack the column {name!r}, "
                f"{min(lacking)} among them. Make the table again so that all files have it."
            )


def column_for(name: str, field_mapping: dict[str, str], relation: Relation) -> str:
    """The source's column behind a feature view's name, through its field mapping.

    >>> column_for("price", {"p": "price"}, Relation("t", "rowid", {"p": "BIGINT"}, "t"))
    'p'
    """
    back = {new: old for old, new in field_mapping.items() if old in relation.types}
    return back.get(name, name)


def select(columns: Sequence[tuple[str, str]]) -> str:
    """A select list of (source column, output name)."""
    return ", ".join(f"{identifier(old)} AS {identifier(new)}" for old, new in columns)
