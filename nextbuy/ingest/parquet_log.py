"""Parquet files as rows of text columns."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nextbuy.errors import NextbuyError
from nextbuy.ingest.columns import ColumnSpecs, named
from nextbuy.ingest.rows import Elements, LogRows, value_of
from nextbuy.ingest.source import FileFormat
from nextbuy.sql import literal


def parquet_rows(
    file_format: FileFormat, files: Sequence[Path], specs: ColumnSpecs, explode: str | None
) -> LogRows:
    """The rows of Parquet files; `explode` names a list column, or a text column with JSON.

    Raises:
        NextbuyError: a file cannot be read, has another schema than the first, or lacks a column.
    """
    schema = _schema(files)
    if taken := {name for name in schema.names if name.casefold() == "file_row_number"}:
        raise NextbuyError(
            f"{files[0]} has a column {taken.pop()!r}, by which DuckDB numbers the rows of "
            "a Parquet file. Rename the column."
        )
    elements = Elements(explode)
    # By position, because SQL does not tell `Id` from `id`.
    places = {name: f"_c{i}" for i, name in enumerate(schema.names)}
    outer = {key: name for key, name in specs.plain.items() if not elements.holds(name)}
    cells = dict(places)
    for setting, name in (outer | ({"explode": explode} if explode else {})).items():
        column = _column(schema, places, name)
        if column is None or name in places:
            specs.check(files[0], schema.names, {setting: name})
        cells[name] = str(column)
    inner = elements.cells(specs.names, _element_samples(schema, explode), file_format)
    listed = "NULL"
    if explode:
        column = cells[explode]
        is_text = pa.types.is_string(_type(schema, explode))
        text = f"CASE WHEN json_valid({column}) THEN {column}::JSON ELSE to_json({column}) END"
        listed = text if is_text else f"to_json({column})"
    aliases = ", ".join(places.values())
    read = f"""(
        SELECT * EXCLUDE (file_row_number), file_row_number + 1 AS _row, NULL::VARCHAR AS _broken
        FROM read_parquet([{", ".join(map(literal, files))}], filename = '_file',
            file_row_number = true, hive_partitioning = false) AS log({aliases}))"""
    visible = [*specs.visible(files[0], schema.names), *inner]
    columns = named(cells | inner, visible)
    texts = {name: value_of(f"CAST({sql} AS VARCHAR)", file_format) for name, sql in cells.items()}
    pairs = ", ".join(f"{literal(name)}, {places[name]}" for name in schema.names)
    return LogRows(
        f"(SELECT {', '.join(['*', *columns])} FROM {elements.exploded(read, listed)})",
        aliases,
        f"json_object({pairs})",
        specs.texts(texts | inner, lambda text: value_of(text, file_format)),
        specs.of(set(inner)),
    )


def parquet_columns(files: Sequence[Path]) -> list[str]:
    """The columns of Parquet files in order.

    Raises:
        NextbuyError: a file cannot be read, or has another schema than the first.
    """
    return list(_schema(files).names)


def _schema(files: Sequence[Path]) -> pa.Schema:
    schemas = []
    for file in files:
        try:
            schemas.append(pq.read_schema(file))
        except (pa.ArrowInvalid, OSError) as error:
            raise NextbuyError(f"{file} cannot be read as Parquet: {error}.") from None
        if not schemas[-1].equals(schemas[0]):
            raise NextbuyError(
                f"{file} has other columns or types than {files[0]}. "
                "Ingest them one after the other."
            )
    return schemas[0]


def _column(schema: pa.Schema, places: dict[str, str], name: str) -> str | None:
    """The SQL of a column or a field of a struct column; None where there is no such column.

    Raises:
        NextbuyError: two fields of a struct differ in case alone; SQL could only reach the first.
    """
    if name in places:
        return places[name]
    for column in schema:
        if not name.startswith(f"{column.name}."):
            continue
        sql, dtype, keys = places[column.name], column.type, name[len(column.name) + 1 :].split(".")
        for key in keys:
            fields = [field.name for field in dtype] if pa.types.is_struct(dtype) else []
            alike = [field for field in fields if field.casefold() == key.casefold()]
            if key not in fields:
                break
            if len(alike) > 1:
                raise NextbuyError(
                    f"The column {column.name!r} has the fields {', '.join(alike)}, which "
                    "differ in case alone, so that SQL sees one. Rename one of them."
                )
            sql, dtype = f"struct_extract({sql}, {literal(key)})", dtype.field(key).type
        else:
            return sql
    return None


def _type(schema: pa.Schema, name: str) -> pa.DataType:
    dtype = (
        schema.field(schema.get_all_field_indices(name)[0]).type if name in schema.names else None
    )
    if dtype is None:
        head, *keys = name.split(".")
        dtype = schema.field(head).type
        for key in keys:
            dtype = dtype.field(key).type
    return dtype


def _element_samples(schema: pa.Schema, explode: str | None) -> list[Any]:
    """What an element of the list column looks like, as Python has it."""
    dtype = _type(schema, explode) if explode else None
    return [_sample(dtype.value_type)] if dtype is not None and pa.types.is_list(dtype) else []


def _sample(dtype: pa.DataType) -> Any:
    return {f.name: _sample(f.type) for f in dtype} if pa.types.is_struct(dtype) else None
