"""The prediction log: what the service answered, one row per scored item.

The service appends whole files, `predictions/day=2024-01-01/<writer>-<number>.parquet`; monitoring
and parity read them. A file appears complete or not at all.
"""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from nextbuy.atomic import replacing
from nextbuy.settings import Settings

PREDICTION_SCHEMA = pa.schema(
    [
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("predicted_at", pa.timestamp("us", tz="UTC"), nullable=False),
        # The moment at which horizons were looked at; null in logs older than this column.
        pa.field("as_of", pa.timestamp("us", tz="UTC")),
        # Just before the features were read; null in logs older than this column.
        pa.field("read_at", pa.timestamp("us", tz="UTC")),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        # `open`, `untouched`, `unknown`; null in older logs. Items without an answer are not here.
        pa.field("state", pa.string()),
        # When the item's horizon began: the end of the session that last touched it.
        pa.field("touched_at", pa.timestamp("us", tz="UTC")),
        pa.field("probability", pa.float64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # 1 is the likeliest of its request
        pa.field("model", pa.string(), nullable=False),  # BentoML tag
        pa.field("is_shadow", pa.bool_(), nullable=False),  # scored by the challenger, not answered
        pa.field("is_degraded", pa.bool_(), nullable=False),  # answered without Redis
        pa.field("has_reasons", pa.bool_(), nullable=False),  # the client requested reasons
        pa.field("has_context", pa.bool_()),  # the client replaced features of this request
        # What the model got, in the order of its contract; NaN is missing.
        pa.field("vector", pa.list_(pa.float32()), nullable=False),
    ]
)
"""Arrow types of a logged prediction, in column order."""
SHOPPER_COLUMNS = ("user_id",)
"""Its columns that hold a shopper's id."""

ORDER = ("predicted_at", "request_id", "user_id", "is_shadow", "rank")
BATCH_ROWS = 100_000


def read_predictions(
    settings: Settings,
    start: datetime | None = None,
    end: datetime | None = None,
    columns: Sequence[str] = PREDICTION_SCHEMA.names,
) -> pa.Table:
    """The logged predictions with `start <= predicted_at < end`, oldest first.

    Ties are ordered by request, shadow after answer, and rank. Nothing logged: an empty table.
    A vector takes more room than all else: name the `columns` where it is not needed.
    """
    rows, condition = _log(settings, start, end)
    read = [name for name in PREDICTION_SCHEMA.names if name in {*columns, *ORDER}]
    table = rows.to_table(columns=read, filter=condition)
    return table.sort_by([(name, "ascending") for name in ORDER]).select(list(columns))


def prediction_parts(
    settings: Settings,
    start: datetime | None = None,
    end: datetime | None = None,
    rows: int = BATCH_ROWS,
) -> Iterator[pa.Table]:
    """The same predictions, day by day and file by file, in tables of about `rows` rows.

    Memory does not grow with the log.
    """
    log, condition = _log(settings, start, end)
    scanned = log.to_batches(
        filter=condition, batch_size=rows, batch_readahead=1, fragment_readahead=1
    )
    batches: list[pa.RecordBatch] = []
    for batch in scanned:
        if batch.num_rows:
            batches.append(batch)
        if sum(each.num_rows for each in batches) >= rows:
            yield pa.Table.from_batches(batches, PREDICTION_SCHEMA)
            batches = []
    if batches:
        yield pa.Table.from_batches(batches, PREDICTION_SCHEMA)


def write_predictions(settings: Settings, rows: pa.Table, writer: str, number: int) -> list[Path]:
    """Append `rows` (of `PREDICTION_SCHEMA`) to the log, a file per day; returns the files.

    `writer` and `number` together name the file: no two calls may share them.
    """
    days = rows["predicted_at"].cast(pa.date32())
    written = []
    for day in sorted(days.unique().to_pylist()):
        file = settings.predictions / f"day={day.isoformat()}" / f"{writer}-{number}.parquet"
        mask = pa.compute.equal(days, pa.scalar(day, pa.date32()))
        with replacing(file, durable=True) as temporary:
            pq.write_table(rows.filter(mask), temporary, compression="zstd")
        written.append(file)
    return written


def _log(
    settings: Settings, start: datetime | None, end: datetime | None
) -> tuple[ds.Dataset, ds.Expression]:
    condition = ds.scalar(True)
    if start is not None:
        condition &= ds.field("predicted_at") >= pa.scalar(start, pa.timestamp("us", tz="UTC"))
    if end is not None:
        condition &= ds.field("predicted_at") < pa.scalar(end, pa.timestamp("us", tz="UTC"))
    files = _files(settings, start, end)
    return ds.dataset(files, schema=PREDICTION_SCHEMA, format="parquet"), condition


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
