"""The DuckDB engine behind every batch step."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.trouble import explained


@contextmanager
def duckdb_engine(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB that works in UTC and spills below the data folder.

    >>> with duckdb_engine(Settings()) as engine:
    ...     engine.execute("select 1").fetchone()
    (1,)

    Raises:
        NextbuyError: a Parquet file is damaged, or there is no room on the disk or in memory.
    """
    spill = settings.data / "tmp"
    spill.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as engine:
        engine.execute("SET TimeZone = 'UTC'")
        engine.execute(f"SET memory_limit = '{settings.memory_limit}'")
        engine.execute(f"SET temp_directory = '{spill}'")
        # A notebook without ipywidgets has none, and DuckDB refuses to speak of it there.
        if engine.execute("SELECT current_setting('enable_progress_bar')").fetchall()[0][0]:
            engine.execute("SET enable_progress_bar = false")
        if settings.threads:
            engine.execute(f"SET threads = {settings.threads}")
        try:
            yield engine
        except (
            duckdb.OutOfMemoryException,
            duckdb.IOException,
            duckdb.InvalidInputException,
        ) as error:
            if told := explained(error):
                raise NextbuyError(told) from error
            if ".parquet" not in str(error) and not isinstance(error, duckdb.IOException):
                raise
            raise NextbuyError(
                f"{str(error).splitlines()[0]} If a file of a table is damaged, remove that "
                "table's folder and run the verb that makes it again; nothing was published."
            ) from error
