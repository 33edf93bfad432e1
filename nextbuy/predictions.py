"""The prediction log: what the service answered, one row per scored item.

The service appends whole files, `predictions/day=2024-01-01/<writer>-<number>.parquet`; monitoring
and parity read them. A file appears complete or not at all.
"""

import os
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from nextbuy.settings import Settings

PREDICTION_SCHEMA = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("predicted_at", pa.timestamp("us", tz="UTC"), nullable=False),
        # Just before the features were asked for; null in logs older than this column.
        pa.field("read_at", pa.timestamp("us", tz="UTC")),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("probability", pa.float64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # 1 is the likeliest of its request
        pa.field("model", pa.string(), nullable=False),  # BentoML tag
        pa.field("is_shadow", pa.bool_(), nullable=False),  # scored beside, not answered
        pa.field("is_degraded", pa.bool_(), nullable=False),  # features partly out of reach
        pa.field("has_reasons", pa.bool_(), nullable=False),  # the client asked for reasons
        pa.field("has_context", pa.bool_()),  # the client replaced features of this request
        # What the model saw, in the order of its contract; NaN is missing.
        pa.field("vector", pa.list_(pa.float32()), nullable=False),
    ]
)
"""Arrow types of a logged prediction, in column order."""


def read_predictions(
    settings: Settings, start: datetime | None = None, end: datetime | None = None
) -> pa.Table:
    """The logged predictions with `start <= predicted_at < end`, oldest first.

    Ties are ordered by request, shadow after answer, and rank. Nothing logged: an empty table.
    """
    rows = ds.dataset(_files(settings, start, end), schema=PREDICTION_SCHEMA, format="parquet")
    condition = ds.scalar(True)
    if start is not None:
        condition &= ds.field("predicted_at") >= pa.scalar(start, pa.timestamp("us", tz="UTC"))
    if end is not None:
        condition &= ds.field("predicted_at") < pa.scalar(end, pa.timestamp("us", tz="UTC"))
    order = ("predicted_at", "request_id", "user_id", "is_shadow", "rank")
    return rows.to_table(filter=condition).sort_by([(name, "ascending") for name in order])


def write_predictions(settings: Settings, rows: pa.Table, writer: str, number: int) -> list[Path]:
    """Append `rows` (of `PREDICTION_SCHEMA`) to the log, a file per day; returns the files.

    `writer` and `number` together name the file: no two calls may share them.
    """
    days = rows["predicted_at"].cast(pa.date32())
    written = []
    for day in sorted(days.unique().to_pylist()):
        folder = settings.predictions / f"day={day.isoformat()}"
        folder.mkdir(parents=True, exist_ok=True)
        aside = folder / f".{writer}-{number}.parquet"  # readers pass over hidden files
        mask = pa.compute.equal(days, pa.scalar(day, pa.date32()))
        pq.write_table(rows.filter(mask), aside, compression="zstd")
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        written.append(aside.rename(folder / aside.name.removeprefix(".")))
    return written


def _files(settings: Settings, start: datetime | None, end: datetime | None) -> Sequence[str]:
    first = f"day={start.date().isoformat()}" if start else "day="
    last = f"day={end.date().isoformat()}" if end else "day=~"
    folders = sorted(settings.predictions.glob("day=*"))
    return [
        str(file)
        for folder in folders
        if first <= folder.name <= last
        for file in sorted(folder.glob("[!.]*.parquet"))
    ]
