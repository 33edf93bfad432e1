"""Reads Parquet for the pages, through DuckDB, kept until the files change."""

from glob import glob
from pathlib import Path

import duckdb
import pandas as pd
import streamlit as st


def parquet(pattern: str) -> pd.DataFrame | None:
    """All rows of the files behind a glob, or None where there is no file."""
    found = sorted(glob(pattern, recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    if not found:
        return None
    return _read(tuple(found), tuple(Path(file).stat().st_mtime_ns for file in found))


@st.cache_data(show_spinner=False, max_entries=20)
def _read(found: tuple[str, ...], changed: tuple[int, ...]) -> pd.DataFrame:
    del changed  # part of the cache's key alone
    with duckdb.connect() as engine:
        engine.execute("SET TimeZone = 'UTC'")
        return engine.execute(
            "SELECT * FROM read_parquet(?, union_by_name = true)", [list(found)]
        ).df()
