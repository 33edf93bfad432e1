"""What a check is: an expectation, how bad its breach is, and what to do about it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
from great_expectations.expectations.core.expect_column_proportion_of_unique_values_to_be_between import (  # noqa: E501
    ExpectColumnProportionOfUniqueValuesToBeBetween,
)
from great_expectations.expectations.core.expect_table_columns_to_match_set import (
    ExpectTableColumnsToMatchSet,
)
from great_expectations.expectations.core.expect_table_row_count_to_be_between import (
    ExpectTableRowCountToBeBetween,
)
from great_expectations.expectations.core.expect_table_row_count_to_equal import (
    ExpectTableRowCountToEqual,
)
from great_expectations.expectations.core.unexpected_rows_expectation import (
    UnexpectedRowsExpectation,
)
from great_expectations.expectations.expectation import Expectation

from monitoring.config import CheckOverride, Severity
from nextbuy.errors import NextbuyError

DUCKDB_TYPES: dict[pa.DataType, str] = {
    pa.string(): "VARCHAR",
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.float64(): "DOUBLE",
    pa.timestamp("us", tz="UTC"): "TIMESTAMP WITH TIME ZONE",
    pa.list_(pa.float32()): "FLOAT[]",
    pa.list_(pa.string()): "VARCHAR[]",
}
"""How DuckDB calls the Arrow types that our tables use."""


@dataclass(frozen=True)
class Scope:
    """What a check that takes a certain amount of data can judge in a table."""

    query: str
    """One row: how many parts are large enough, how many there are, and why none is; `{batch}` in
    it stands for the table."""
    parts: str
    """What the parts are, in the plural."""


@dataclass(frozen=True)
class Check:
    """One thing that must hold of a table.

    `failing` is the SQL condition of a row that breaks the check, where single rows can; such rows
    can go to quarantine. `tolerance` is the share of rows that may break it. Where its `scope` is
    empty the check is not applied: that is no pass.
    """

    name: str
    columns: tuple[str, ...]
    """Columns it reads; where one is missing the check cannot hold."""
    expectation: Expectation
    remedy: str
    failing: str | None = None
    severity: Severity = "block"
    tolerance: float = 0.0
    scope: Scope | None = None


def row_check(
    name: str,
    columns: str | tuple[str, ...],
    failing: str,
    remedy: str,
    severity: Severity = "block",
    tolerance: float = 0.0,
) -> Check:
    """A check that single rows break: those for which the SQL condition `failing` is true."""
    query = f"SELECT * FROM {{batch}} WHERE {failing}"
    check = query_check(name, columns, query, remedy, severity)
    return replace(check, failing=failing, tolerance=tolerance)


def query_check(
    name: str,
    columns: str | tuple[str, ...],
    query: str,
    remedy: str,
    severity: Severity = "block",
    scope: Scope | None = None,
) -> Check:
    """A check that holds when a query gives no row; `{batch}` in it stands for the table."""
    return Check(
        name,
        (columns,) if isinstance(columns, str) else columns,
        UnexpectedRowsExpectation(unexpected_rows_query=query, description=remedy),
        remedy,
        severity=severity,
        scope=scope,
    )


def whole_table(counted: str, least: int, what: str) -> Scope:
    """The scope of a check of the table as a whole, which takes `least` of the aggregate."""
    why = f"format('{{:,}} {what}, it takes {least:,}', {counted})"
    return Scope(f"SELECT CAST({counted} >= {least} AS INTEGER), 1, {why} FROM {{batch}}", "tables")


def shape_checks(types: Mapping[str, str], later: Collection[str] = ()) -> list[Check]:
    """The checks every table has: its columns, their DuckDB types, and at least one row.

    Columns in `later` may be missing: files from before they came are still right.
    """
    always = [name for name in types if name not in later]
    listed = ", ".join(f"('{name}', '{kind}')" for name, kind in types.items())
    return [
        Check(
            "columns_as_declared",
            (),
            ExpectTableColumnsToMatchSet(column_set=always, exact_match=not later),
            "Build the table again with the current code; a column was renamed, added or lost.",
        ),
        query_check(
            "types_as_declared",
            (),
            "SELECT column_name, column_type FROM (DESCRIBE SELECT * FROM {batch}) "
            f"WHERE column_name IN ({_names(types)}) "
            f"AND (column_name, column_type) NOT IN (VALUES {listed})",
            "Build the table again with the current code; a column has another type.",
        ),
        Check(
            "has_rows",
            (),
            ExpectTableRowCountToBeBetween(min_value=1),
            "The table is empty: look at what went into it.",
        ),
    ]


def schema_types(schema: pa.Schema) -> dict[str, str]:
    """Column -> DuckDB type of an Arrow schema."""
    return {field.name: DUCKDB_TYPES[field.type] for field in schema}


def present(column: str, remedy: str, is_text: bool = True) -> Check:
    """No value of the column is null or, in a text column, empty."""
    failing = f"{column} IS NULL OR {column} = ''" if is_text else f"{column} IS NULL"
    return row_check(f"{column}_present", column, failing, remedy)


def unique(column: str, remedy: str) -> Check:
    """No two rows agree in the column; nulls do not count."""
    return Check(
        f"{column}_unique",
        (column,),
        # One pass; the expectation that lists the repeated rows takes three times as long.
        ExpectColumnProportionOfUniqueValuesToBeBetween(column=column, min_value=1),
        remedy,
    )


def one_row_per(columns: Sequence[str], remedy: str) -> Check:
    """No two rows agree in all of the columns."""
    return query_check(
        "one_row_per_key",
        tuple(columns),
        f"SELECT * FROM (SELECT count(*) - count(DISTINCT ({', '.join(columns)})) AS repeated "
        "FROM {batch}) WHERE repeated > 0",
        remedy,
    )


def rows_exactly(n: int, remedy: str) -> Check:
    """The table has this many rows."""
    return Check("rows_complete", (), ExpectTableRowCountToEqual(value=n), remedy)


def configured(
    table: str, checks: Sequence[Check], overrides: Mapping[str, CheckOverride]
) -> list[Check]:
    """The checks with what the configuration says otherwise.

    Raises:
        NextbuyError: the configuration names a check that the table does not have, or gives a
            tolerance to a check that does not count rows.
    """
    known = {check.name: check for check in checks}
    for name, override in overrides.items():
        if name not in known:
            raise NextbuyError(
                f"configs/monitoring.yaml: checks.{table}.{name} is no check of {table}. "
                f"There are: {', '.join(known)}."
            )
        if override.tolerance is not None and known[name].failing is None:
            raise NextbuyError(
                f"configs/monitoring.yaml: checks.{table}.{name} takes no tolerance: "
                "it looks at the table as a whole, not at single rows. Set its severity instead."
            )
        known[name] = replace(known[name], **override.model_dump(exclude_none=True))
    return list(known.values())


def _names(types: Mapping[str, str]) -> str:
    return ", ".join(f"'{name}'" for name in types)
