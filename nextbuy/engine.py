"""The DuckDB engine behind every batch step."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from nextbuy.settings import Settings


@contextmanager
def duckdb_engine(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an in-memory DuckDB that works in UTC and spills below the data folder.

    >>> with duckdb_engine(Settings()) as engine:
    ...     engine.execute("select 1").fetchone()
    (1,)
    """
    spill = settings.data / "tmp"
    spill.mkdir(parents=True, exist_ok=True)
    with duckdb.connect() as engine:
        engine.execute("SET TimeZone = 'UTC'")
        engine.execute(f"SET memory_limit = '{settings.memory_limit}'")
        engine.execute(f"SET temp_directory = '{spill}'")
        engine.execute("SET enable_progress_bar = false")
        if settings.threads:
            engine.execute(f"SET threads = {settings.threads}")
        yield engine
