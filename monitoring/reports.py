"""Where monitoring keeps what it found: one small Parquet file per run, read together.

    reports/checks/20240131T120000000000-1f3a.parquet

A kind of report is a time series: each run adds rows, none is ever changed.
"""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nextbuy.settings import Settings

TEXT, WHOLE, REAL, YES, MOMENT = (
    pa.string(),
    pa.int64(),
    pa.float64(),
    pa.bool_(),
    pa.timestamp("us", tz="UTC"),
)

CHECKS = pa.schema(
    [
        ("table", TEXT),
        ("checked_at", MOMENT),
        ("rows", WHOLE),
        ("rule", TEXT),
        ("columns", TEXT),
        ("severity", TEXT),
        ("tolerance", REAL),
        ("passed", YES),
        ("unexpected", WHOLE),
        ("share", REAL),
        ("observed", TEXT),
        ("remedy", TEXT),
        ("sample", TEXT),
        ("quarantine", TEXT),
    ],
    metadata={"kind": "checks"},
)
"""A row per rule and run."""


def folder(settings: Settings, schema: pa.Schema) -> Path:
    """Where the series of this schema lies."""
    kind: bytes = schema.metadata[b"kind"]
    return settings.reports / kind.decode()


def append(
    settings: Settings,
    schema: pa.Schema,
    rows: Sequence[Mapping[str, Any]] | pa.Table,
    at: datetime,
) -> Path:
    """Add a run's rows to a series; the file appears complete or not at all."""
    table = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(list(rows), schema)
    target = folder(settings, schema)
    target.mkdir(parents=True, exist_ok=True)
    name = f"{at.astimezone(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:4]}.parquet"
    aside = target / f".{name}"  # readers glob past hidden files
    pq.write_table(table.cast(schema.remove_metadata()), aside, compression="zstd")
    return aside.rename(target / name)
