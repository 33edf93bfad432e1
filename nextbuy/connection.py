"""The DuckDB connection behind every batch step."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from nextbuy.errors import NextbuyError, explain_refusal
from nextbuy.settings import Settings


@contextmanager
def duckdb_connection(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB that works in UTC and spills below the data folder.

    >>> with duckdb_connection(Settings()) as connection:
    ...     connection.execute("select 1").fetchone()
    (1,)

    Raises:
        NextbuyError: a Parquet file is damaged, or there is no room on the disk or in memory.
    """
    spill = settings.data / "tmp"
    spill.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(f"SET memory_limit = '{settings.memory_limit}'")
        connection.execute(f"SET temp_directory = '{spill}'")
        # Without ipywidgets a notebook has no progress bar, and DuckDB refuses the setting.
        if connection.execute("SELECT current_setting('enable_progress_bar')").fetchall()[0][0]:
            connection.execute("SET enable_progress_bar = false")
        if settings.threads:
            connection.execute(f"SET threads = {settings.threads}")
        try:
            yield connection
        except (
            duckdb.OutOfMemoryException,
            duckdb.IOException,
            duckdb.InvalidInputException,
        ) as error:
            if message := explain_refusal(error):
                raise NextbuyError(message) from error
            if ".parquet" not in str(error) and not isinstance(error, duckdb.IOException):
                raise
            raise NextbuyError(
                f"{str(error).splitlines()[0]} If a file of a table is damaged, remove that "
                "table's folder and run the verb that makes it again; nothing was published."
            ) from error
