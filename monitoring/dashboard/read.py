"""Reads the reports of the runs, cached until their files change, and draws pages and charts."""

import json
from collections.abc import Callable
from functools import wraps
from glob import glob
from pathlib import Path
from typing import Any

import altair as alt
import duckdb
import pandas as pd
import pyarrow as pa
import streamlit as st

from monitoring import reports
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings

Page = Callable[[], None]
GOOD, BAD, QUIET = "#2a9d8f", "#e4572e", "#8d99ae"
"""Distinct in light and dark, and to the colour-blind."""


def page(title: str, caption: str) -> Callable[[Page], Page]:
    """A page with its title; a file that cannot be read shows as an error with its remedy."""

    def decorate(draw: Page) -> Page:
        @wraps(draw)
        def show() -> None:
            st.title(title)
            st.caption(caption)
            try:
                draw()
            except NextbuyError as error:
                st.error(str(error), icon=":material/error:")

        return show

    return decorate


def parquet(pattern: str | Path, columns: str = "*", where: str = "true") -> pd.DataFrame | None:
    """All rows of the files behind a glob, or None where there is no file.

    Raises:
        NextbuyError: a file is not Parquet, or lacks a column.
    """
    matching = sorted(glob(str(pattern), recursive=True))  # noqa: PTH207 (Path.glob takes no absolute pattern)
    if not matching:
        return None
    changed = tuple(Path(file).stat().st_mtime_ns for file in matching)
    return _read(tuple(matching), changed, columns, where)


def series(schema: pa.Schema) -> pd.DataFrame | None:
    """A series of reports, all runs."""
    return parquet(f"{reports.folder(Settings(), schema)}/*.parquet")


def json_file(file: Path) -> Any | None:
    """The content of a JSON file; None if it does not exist.

    Raises:
        NextbuyError: it is not JSON.
    """
    try:
        return json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise NextbuyError(
            f"{file} is damaged ({error}). Delete it and run the command again."
        ) from (error)


def show_chart(chart: alt.Chart | alt.LayerChart | alt.FacetChart, height: int = 260) -> None:
    """Draw a chart as wide as its column."""
    if not isinstance(chart, alt.FacetChart):
        chart = chart.properties(height=height)
    st.altair_chart(chart)


@st.cache_data(show_spinner=False, max_entries=40)
def _read(
    matching: tuple[str, ...], changed: tuple[int, ...], columns: str, where: str
) -> pd.DataFrame:
    del changed  # part of the cache's key alone
    try:
        with duckdb.connect() as engine:
            engine.execute("SET TimeZone = 'UTC'")
            return engine.execute(
                f"SELECT {columns} FROM read_parquet(?, union_by_name = true, "
                f"hive_partitioning = false) WHERE {where}",
                [list(matching)],
            ).df()
    except duckdb.Error as error:
        raise NextbuyError(
            f"{Path(matching[0]).parent} holds a file that cannot be read: {error}. "
            "Delete the damaged file and run the command again."
        ) from error
