"""Rows by calendar week, and which weeks have matured."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

WEEK = timedelta(days=7)


def weeks(table: pa.Table) -> list[tuple[datetime, pa.Table]]:
    """(Monday 00:00 UTC, its rows) of every week with rows, the oldest first."""
    at = table["predicted_at"].to_pandas()
    monday = at.dt.floor("D") - at.dt.weekday * timedelta(days=1)
    return [
        (start.to_pydatetime(), table.filter(pa.array(monday == start)))
        for start in sorted(monday.unique())
    ]


def with_matured_labels(
    weekly: Sequence[tuple[datetime, pa.Table]], horizon: timedelta, newest: datetime
) -> list[tuple[datetime, pa.Table]]:
    """The weeks, with the labels of those whose horizon still runs set to null."""
    return [
        (week, window)
        if week + WEEK + horizon <= newest.astimezone(UTC)
        else (week, _blank(window))
        for week, window in weekly
    ]


def _blank(window: pa.Table) -> pa.Table:
    place = window.column_names.index("label")
    blank = pc.if_else(True, pa.scalar(None, window.schema.field("label").type), window["label"])
    return window.set_column(place, "label", blank)
