"""Text that goes into SQL: names and values are quoted here and nowhere else."""

from collections.abc import Iterable
from pathlib import Path


def identifier(name: str) -> str:
    """A column or table name as SQL takes it, whatever characters it holds.

    >>> identifier("day of week")
    '"day of week"'
    """
    return '"' + name.replace('"', '""') + '"'


def literal(value: object) -> str:
    """A string value as SQL takes it; anything else is written as its text.

    >>> literal("it's")
    "'it''s'"
    """
    return "'" + str(value).replace("'", "''") + "'"


def read_parquet(files: str | Path | Iterable[str | Path]) -> str:
    """Parquet files, or a glob of them, as a DuckDB relation.

    The day in a folder's name does not become a column: every table carries its time itself.

    >>> read_parquet("events/*/*.parquet")
    "read_parquet('events/*/*.parquet', hive_partitioning = false)"
    """
    named = (
        literal(files)
        if isinstance(files, str | Path)
        else f"[{', '.join(literal(file) for file in files)}]"
    )
    return f"read_parquet({named}, hive_partitioning = false)"
