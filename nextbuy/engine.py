"""The DuckDB engine behind every batch step, opened through Ibis."""

from collections.abc import Iterator
from contextlib import contextmanager

import ibis
from ibis.backends.duckdb import Backend

from nextbuy.settings import Settings


@contextmanager
def duckdb_engine(settings: Settings) -> Iterator[Backend]:
    """Open an in-memory DuckDB that works in UTC and spills below the data folder.

    >>> with duckdb_engine(Settings()) as engine:
    ...     engine.raw_sql("select 1").fetchone()
    (1,)
    """
    spill = settings.data / "tmp"
    spill.mkdir(parents=True, exist_ok=True)
    engine = ibis.duckdb.connect()
    try:
        engine.raw_sql("SET TimeZone = 'UTC'")
        engine.raw_sql(f"SET memory_limit = '{settings.memory_limit}'")
        engine.raw_sql(f"SET temp_directory = '{spill}'")
        engine.raw_sql("SET enable_progress_bar = false")
        if settings.threads:
            engine.raw_sql(f"SET threads = {settings.threads}")
        yield engine
    finally:
        engine.disconnect()
