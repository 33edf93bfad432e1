"""Reads the reports of the runs, cached until their files change, and draws pages and charts."""

import json
from collections.abc import Callable
from functools import wraps
from glob import glob
from pathlib import Path
from typing import Any

import altair as alt
import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import streamlit as st
from numpy.typing import NDArray

from monitoring import reports
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings

Page = Callable[[], None]
GOOD, BAD, QUIET = "#2a9d8f", "#e4572e", "#8d99ae"
"""Distinct in light and dark, and to the colour-blind."""
PASSED, FAILED, NOT_APPLIED = "passed", "failed", "not applied"
"""What became of a check."""


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


def last_checks(runs: pd.DataFrame) -> pd.DataFrame:
    """Each check at its last run, with `outcome`: passed, failed or not applied."""
    last = runs.sort_values("checked_at").groupby(["table", "rule"]).tail(1)
    return last.assign(outcome=outcomes(last["passed"]))


def outcomes(passed: pd.Series) -> pd.Series:
    """`passed` of the series of checks, in words."""
    return passed.map({True: PASSED, False: FAILED}).fillna(NOT_APPLIED)


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


def bin_edges(values: pd.Series, bins: int) -> NDArray[np.float64]:
    """Edges of at most so many bins over the middle 99 % of the values.

    Whole numbers get bins that hold equally many of them, each number in the middle of its place:
    others would give some bars a number more than their neighbours.

    >>> bin_edges(pd.Series([1, 2, 3]), 40).tolist()
    [0.5, 1.5, 2.5, 3.5]
    """
    low, high = values.quantile(0.005), values.quantile(0.995)
    if (values % 1 == 0).all():
        low, high = np.floor(low), np.ceil(high)
        width = int(np.ceil((high - low + 1) / bins))
        return np.asarray(np.arange(low - 0.5, high + width, width), np.float64)
    return np.linspace(low, high if high > low else low + 1, bins + 1)


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
