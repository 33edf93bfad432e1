"""Rows cut into calendar weeks, and which of them are matured."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

WEEK = timedelta(days=7)


def weeks(table: pa.Table) -> list[tuple[datetime, pa.Table]]:
    """The rows of each whole week that holds any, by its Monday 00:00 UTC, oldest first."""
    at = table["predicted_at"].to_pandas()
    monday = at.dt.floor("D") - at.dt.weekday * timedelta(days=1)
    found = []
    for start in sorted(monday.unique()):
        moment = start.to_pydatetime()
        found.append((moment, table.filter(pa.array(monday == start))))
    return found


def ripe_weeks(
    weekly: Sequence[tuple[datetime, pa.Table]], horizon: timedelta, newest: datetime
) -> list[tuple[datetime, pa.Table]]:
    """The weeks, without the labels of those whose horizon still runs."""
    return [
        (week, window)
        if week + timedelta(days=7) + horizon <= newest.astimezone(UTC)
        else (week, _blank(window))
        for week, window in weekly
    ]


def _blank(window: pa.Table) -> pa.Table:
    place = window.column_names.index("label")
    blank = pc.if_else(True, pa.scalar(None, window.schema.field("label").type), window["label"])
    return window.set_column(place, "label", blank)
