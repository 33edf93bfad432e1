"""Has what the model sees moved away from what it learned? Evidently's distances tell.

Distances, not p-values: with many rows any difference is significant.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

import nextbuy.telemetry  # noqa: F401  # before Evidently looks at the environment
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings

SAMPLE = 3_000
"""Rows of each window that are compared: enough for a distance, whatever the log's size."""
PREDICTION, TARGET = "probability", "label"


class MethodOverride(BaseModel):
    """What the configuration may say of one feature."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: str | None = None
    threshold: float | None = Field(default=None, gt=0)


class DriftConfig(BaseModel):
    """Evidently's methods (distances) and from which value on a column has moved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    numeric_method: str = "wasserstein"
    numeric_threshold: float = Field(default=0.25, gt=0)
    category_method: str = "jensenshannon"
    category_threshold: float = Field(default=0.2, gt=0)
    features: dict[str, MethodOverride] = {}
    """Feature -> where it differs."""
    min_rows: int = Field(default=200, ge=20)
    """A window with fewer rows is not compared."""


class FeatureDrift(BaseModel):
    """How far one column has moved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature: str
    method: str
    distance: float | None
    """None where one window has no value of the column."""
    threshold: float
    is_drifted: bool
    missing: float
    """Share of the current window without a value."""


def compare(reference: pa.Table, current: pa.Table, config: DriftConfig) -> list[FeatureDrift]:
    """Distance of every column of the reference between two windows, the farthest first.

    A column whose values all vanished, or came to be, has moved. One that neither has is left out.

    Raises:
        NextbuyError: a window is empty, the windows have other columns, or a method is unknown.
    """
    for name, window in (("reference", reference), ("current", current)):
        if window.num_rows == 0:
            raise NextbuyError(f"The {name} window has no rows: there is nothing to compare.")
    new = sorted(set(current.column_names) - set(reference.column_names))
    gone = sorted(set(reference.column_names) - set(current.column_names))
    if new or gone:
        raise NextbuyError(
            f"The windows have different columns: new {', '.join(new) or 'none'}, vanished "
            f"{', '.join(gone) or 'none'}. Train again on the features there are: nextbuy train"
        )
    reference, current = _sampled(reference), _sampled(current)
    columns = (_column(name, reference, current, config) for name in reference.column_names)
    found = [column for column in columns if column is not None]
    return sorted(found, key=lambda d: (-(np.inf if d.distance is None else d.distance), d.feature))


def series(
    training: pa.Table,
    weekly: Sequence[tuple[datetime, pa.Table]],
    at: datetime,
    config: DriftConfig,
) -> list[dict[str, Any]]:
    """Rows of `reports.DRIFT`: each week against the training period and against the week before.

    `label` takes part where all of a week's outcomes are known.
    """
    rows: list[dict[str, Any]] = []
    before: pa.Table | None = None
    for week, window in weekly:
        if window.num_rows < config.min_rows:
            continue
        rows += drift_rows(*_alike(training, window), "training", week, at, config)
        if before is not None:
            rows += drift_rows(*_alike(before, window), "previous", week, at, config)
        before = window
    return rows


def drift_rows(
    reference: pa.Table,
    current: pa.Table,
    against: Literal["training", "previous", "served"],
    week: datetime,
    at: datetime,
    config: DriftConfig,
) -> list[dict[str, Any]]:
    """Rows of `reports.DRIFT` for one comparison."""
    return [
        {"compared_at": at, "against": against, "week": week, **drift.model_dump()}
        for drift in compare(reference, current, config)
    ]


def page(settings: Settings) -> Path:
    """Where Evidently's own report of the last comparison lies."""
    return settings.reports / "evidently.html"


def write_page(
    settings: Settings, reference: pa.Table, current: pa.Table, config: DriftConfig
) -> Path:
    """Evidently's full report: drift with histograms, data summary, classification performance.

    `label` and `probability` are judged as a classification where both classes are known.

    Raises:
        NextbuyError: Evidently fails on these columns.
    """
    from evidently import BinaryClassification, DataDefinition, Dataset, Report
    from evidently.presets import ClassificationPreset, DataDriftPreset, DataSummaryPreset

    usable = [
        name
        for name in reference.column_names
        if reference[name].null_count < reference.num_rows
        and current[name].null_count < current.num_rows
    ]
    frames = [_evidently_frame(_sampled(window.select(usable))) for window in (current, reference)]
    texts = [name for name in usable if pa.types.is_string(reference.schema.field(name).type)]
    numbers = [name for name in usable if name not in (*texts, TARGET)]
    shown = [*numbers, *texts]
    presets: list[Any] = [
        DataDriftPreset(
            columns=shown,
            num_method=config.numeric_method,
            num_threshold=config.numeric_threshold,
            cat_method=config.category_method,
            cat_threshold=config.category_threshold,
        ),
        DataSummaryPreset(columns=shown),
    ]
    both = all(
        TARGET in frame and frame[TARGET].notna().all() and frame[TARGET].nunique() == 2
        for frame in frames
    )
    task = BinaryClassification(target=TARGET, prediction_probas=PREDICTION, pos_label=1)
    if both:
        presets.append(ClassificationPreset())
    definition = DataDefinition(
        numerical_columns=numbers,
        categorical_columns=[*texts, *([TARGET] if both else [])],
        classification=[task] if both else None,
    )
    data = [Dataset.from_pandas(frame, data_definition=definition) for frame in frames]
    settings.reports.mkdir(parents=True, exist_ok=True)
    aside = settings.reports / ".evidently.html"
    try:
        Report(presets).run(*data).save_html(str(aside))
    except Exception as error:  # theirs has no common base, and the run's numbers stand without it
        raise NextbuyError(
            f"Evidently's full report could not be made: {type(error).__name__}: {error}. "
            "Go on without it: nextbuy monitor --no-pages"
        ) from error
    return aside.rename(page(settings))


def _evidently_frame(table: pa.Table) -> pd.DataFrame:
    for index, field in enumerate(table.schema):
        if pa.types.is_boolean(field.type):  # as numbers, as they are compared week by week
            table = table.set_column(index, field.name, table[field.name].cast(pa.int8()))
    frame = table.to_pandas()
    if TARGET in frame and frame[TARGET].notna().all():
        frame[TARGET] = frame[TARGET].astype(int)
    return frame


def _column(
    name: str, reference: pa.Table, current: pa.Table, config: DriftConfig
) -> FeatureDrift | None:
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    is_text = pa.types.is_string(reference.schema.field(name).type)
    kind = ColumnType.Categorical if is_text else ColumnType.Numerical
    told = config.features.get(name, MethodOverride())
    method = told.method or (config.category_method if is_text else config.numeric_method)
    threshold = told.threshold or (
        config.category_threshold if is_text else config.numeric_threshold
    )
    windows = [window[name].drop_null() for window in (reference, current)]
    missing = current[name].null_count / current.num_rows
    if not len(windows[0]) and not len(windows[1]):
        return None
    distance: float | None = None
    is_drifted = True
    if len(windows[0]) and len(windows[1]):
        old, new = (w.to_pandas() if is_text else w.cast(pa.float64()).to_pandas() for w in windows)
        try:
            test = get_stattest(old, new, kind, method)
        except Exception as error:  # theirs has no common base
            raise NextbuyError(
                f"configs/monitoring.yaml: drift: {method} is no method of Evidently's for {name}: "
                f"{error}"
            ) from error
        distance = float(test(old, new, kind, threshold).drift_score)
        is_drifted = distance >= threshold
    return FeatureDrift(
        feature=name,
        method=method,
        distance=distance,
        threshold=threshold,
        is_drifted=is_drifted,
        missing=missing,
    )


def _alike(reference: pa.Table, current: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Both with the columns that are compared; the target only where all of it is known."""
    names = [name for name in current.column_names if "__" in name]
    gone = [name for name in reference.column_names if "__" in name and name not in names]
    names += [name for name in (PREDICTION,) if name in reference.column_names]
    if current[TARGET].null_count == 0 and reference[TARGET].null_count == 0:
        names.append(TARGET)
    held = [name for name in names if name in reference.column_names]
    return reference.select([*held, *gone]), current.select(names)


def _sampled(table: pa.Table) -> pa.Table:
    step = max(1, table.num_rows // SAMPLE)
    return table.take(pa.array(range(0, table.num_rows, step)))
