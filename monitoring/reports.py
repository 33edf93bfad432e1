"""Where monitoring keeps its results: one small Parquet file per run, read together.

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

from nextbuy.atomic import replacing
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
        ("passed", YES),  # null: not applied
        ("unexpected", WHOLE),
        ("share", REAL),
        ("observed", TEXT),
        ("remedy", TEXT),
        ("sample", TEXT),
        ("quarantine", TEXT),
    ],
    metadata={"kind": "checks"},
)
"""A row per check (column `rule`) and run."""

DRIFT = pa.schema(
    [
        ("compared_at", MOMENT),
        ("against", TEXT),  # training, previous, or served (skew)
        ("week", MOMENT),
        ("feature", TEXT),
        ("method", TEXT),
        ("distance", REAL),
        ("threshold", REAL),
        ("is_drifted", YES),
        ("missing", REAL),
    ],
    metadata={"kind": "drift"},
)
"""A row per feature, window and run; `probability` is the prediction, `label` the target."""

PERFORMANCE = pa.schema(
    [
        ("measured_at", MOMENT),
        ("origin", TEXT),  # served (over HTTP) or backtest (every row since the training)
        ("week", MOMENT),
        ("state", TEXT),  # measured, estimated, one class, too few
        ("rows", WHOLE),
        ("open", WHOLE),
        ("censored", WHOLE),
        ("base_rate", REAL),
        ("mean_probability", REAL),
        ("pr_auc", REAL),
        ("precision_at_5", REAL),
        ("calibration_error", REAL),
        ("profit", REAL),
    ],
    metadata={"kind": "performance"},
)
"""A row per origin and week and run; cents for `profit`."""

ALERTS = pa.schema(
    [
        ("ran_at", MOMENT),
        ("at", MOMENT),  # the present that the run was given
        ("alert", TEXT),
        ("level", TEXT),
        ("state", TEXT),  # quiet, waiting, raised, acknowledged, silenced
        ("value", REAL),
        ("bound", REAL),
        ("since", MOMENT),
        ("message", TEXT),
        ("features", TEXT),
        ("remedy", TEXT),
    ],
    metadata={"kind": "alerts"},
)
"""A row per rule and run."""

LATENCY = pa.schema(
    [
        ("at", MOMENT),
        ("requests", WHOLE),
        ("p50_ms", REAL),
        ("p99_ms", REAL),
    ],
    metadata={"kind": "latency"},
)
"""A row per run."""

VERSIONS = pa.schema(
    [
        ("at", MOMENT),
        ("version", TEXT),
        ("alias", TEXT),
        ("family", TEXT),
        ("validation_pr_auc", REAL),
        ("test_pr_auc", REAL),
        ("recent_pr_auc", REAL),
    ],
    metadata={"kind": "versions"},
)
"""A row per registered version and run."""


PROFILE = "profile.parquet"
"""File with the metrics of each day; replaced by each run."""


def folder(settings: Settings, schema: pa.Schema) -> Path:
    """The folder of the series of this schema."""
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
    name = f"{at.astimezone(UTC):%Y%m%dT%H%M%S%f}-{uuid.uuid4().hex[:4]}.parquet"
    target = folder(settings, schema) / name
    with replacing(target) as file:
        pq.write_table(table.cast(schema.remove_metadata()), file, compression="zstd")
    return target
