"""Has what the model sees moved away from what it learned? Evidently compares two windows."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

import nextbuy.telemetry  # noqa: F401  # before Evidently looks at the environment
from monitoring import reports
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings

SAMPLE = 5_000
"""Rows of each window that are compared: enough for a distance, whatever the log's size."""

DRIFT = pa.schema(
    [
        ("compared_at", reports.MOMENT),
        ("feature", reports.TEXT),
        ("method", reports.TEXT),
        ("distance", reports.REAL),
        ("threshold", reports.REAL),
        ("is_drifted", reports.YES),
    ],
    metadata={"kind": "drift"},
)
"""A row per feature and run."""


class FeatureDrift(BaseModel):
    """How far one feature has moved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature: str
    method: str
    distance: float
    threshold: float

    @property
    def is_drifted(self) -> bool:
        """Whether the distance reaches the threshold."""
        return self.distance >= self.threshold


def training_windows(settings: Settings) -> tuple[pa.Table, pa.Table]:
    """Feature vectors of the training period and of the last labelled period.

    Raises:
        NextbuyError: nothing was trained yet.
    """
    kept = sorted((settings.data / "datasets").glob("*.parquet"), key=lambda f: f.stat().st_mtime)
    if not kept:
        raise NextbuyError("There is no training set yet. Make one with: nextbuy train")
    table = pq.read_table(kept[-1])
    split = table["split"].to_pandas()
    features = [name for name in table.column_names if "__" in name]
    reference, current = (
        table.filter(pa.array(split == name)).select(features) for name in ("train", "test")
    )
    return reference, current


def feature_drift(
    reference: pa.Table, current: pa.Table, settings: Settings, at: datetime | None = None
) -> list[FeatureDrift]:
    """Distance of every feature between two windows, the farthest first.

    Distances, not p-values: with many rows any difference is significant. Keeps the rows in
    `reports/drift/` and Evidently's page as `reports/drift.html`.

    Raises:
        NextbuyError: a window is empty.
    """
    from evidently import Report
    from evidently.presets import DataDriftPreset

    for name, window in (("reference", reference), ("current", current)):
        if window.num_rows == 0:
            raise NextbuyError(f"The {name} window has no rows: there is nothing to compare.")
    usable = [
        name
        for name in reference.column_names
        if reference[name].null_count < reference.num_rows
        and current[name].null_count < current.num_rows
    ]
    frames = [_sampled(window.select(usable)).to_pandas() for window in (current, reference)]
    preset = DataDriftPreset(num_method="wasserstein", cat_method="jensenshannon")
    snapshot = Report([preset]).run(*frames)
    found = []
    for metric in snapshot.dict()["metrics"]:
        named = re.match(
            r"ValueDrift\(column=(.+),method=(.+),threshold=(.+)\)", metric["metric_name"]
        )
        if named:
            feature, method, threshold = named.groups()
            found.append(
                FeatureDrift(
                    feature=feature,
                    method=method,
                    distance=float(metric["value"]),
                    threshold=float(threshold),
                )
            )
    found.sort(key=lambda drift: (-drift.distance, drift.feature))
    at = at or datetime.now(UTC)
    rows = [
        {"compared_at": at, "is_drifted": drift.is_drifted, **drift.model_dump()} for drift in found
    ]
    reports.append(settings, DRIFT, rows, at)
    snapshot.save_html(str(page(settings)))
    return found


def page(settings: Settings) -> Path:
    """Where Evidently's own report of the last comparison lies."""
    return settings.reports / "drift.html"


def _sampled(table: pa.Table) -> pa.Table:
    step = max(1, table.num_rows // SAMPLE)
    return table.take(pa.array(range(0, table.num_rows, step)))
