"""How far what the model sees has moved from what it was trained on.

Distances, not p-values: with many rows any difference is significant. `robust` is our own, and
registered with Evidently; the other methods carry the names that Evidently gives them and yield the
same figures. So its page shows what the series holds.
"""

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance

import nextbuy.telemetry  # noqa: F401  # before Evidently looks at the environment
from nextbuy.atomic import replacing
from nextbuy.errors import NextbuyError
from nextbuy.features import TABLES
from nextbuy.settings import Settings

SAMPLE_ROWS = 3_000
"""Rows of each window that are compared: enough for a distance, whatever the log's size."""
PREDICTION, TARGET = "probability", "label"
RANKS_A_DEVIATION = 2 * math.pi**0.5
"""The mean place in a normal column moves by 1 / (2 sqrt(pi)) for each standard deviation that the
column moves, as long as it moves little."""
ENDS = (0.005, 0.995)
"""Quantiles of a window beyond which its values are outliers."""
MAX_DISTINCT = 20
"""A number with at most this many values in the reference is compared value by value."""

GROWING = frozenset(
    table.full_name(feature.name) for table in TABLES for feature in table.features if feature.grows
)
"""Features that rise with the age of the log: shown apart from those that moved."""

NumericMethod = Literal["robust", "wasserstein", "jensenshannon", "psi"]
CategoryMethod = Literal["jensenshannon", "psi"]
NUMBERS_ONLY = ("robust", "wasserstein")


class MethodOverride(BaseModel):
    """Method and threshold of one feature, where they differ from those of its type."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: NumericMethod | None = None
    threshold: float | None = Field(default=None, gt=0)


class DriftConfig(BaseModel):
    """How columns are compared, and the distance at which a column counts as drifted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    numeric_method: NumericMethod = "robust"
    numeric_threshold: float = Field(default=0.25, gt=0)
    category_method: CategoryMethod = "jensenshannon"
    category_threshold: float = Field(default=0.2, gt=0)
    features: dict[str, MethodOverride] = {}
    """Feature -> its own method and threshold."""
    min_rows: int = Field(default=200, ge=20)
    """A window with fewer rows is not compared."""


class FeatureDrift(BaseModel):
    """How far one column has drifted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature: str
    method: str
    distance: float | None
    """None if one window has no value of the column."""
    threshold: float
    is_drifted: bool
    missing: float
    """Share of the current window without a value."""


def compare(reference: pa.Table, current: pa.Table, config: DriftConfig) -> list[FeatureDrift]:
    """Distance of every column between two windows, the largest first.

    A column with values in one window only has drifted; one without any value is left out.

    Raises:
        NextbuyError: a window is empty, the windows have different columns, or a text column is
            configured to be compared as a number.
    """
    for name, window in (("reference", reference), ("current", current)):
        if window.num_rows == 0:
            raise NextbuyError(f"The {name} window has no rows: there is nothing to compare.")
    new = sorted(set(current.column_names) - set(reference.column_names))
    vanished = sorted(set(reference.column_names) - set(current.column_names))
    if new or vanished:
        raise NextbuyError(
            f"The windows have different columns: new {', '.join(new) or 'none'}, vanished "
            f"{', '.join(vanished) or 'none'}. Train again on the current features: nextbuy train"
        )
    reference, current = _sampled(reference), _sampled(current)
    columns = (_column(name, reference, current, config) for name in reference.column_names)
    drifts = [column for column in columns if column is not None]
    return sorted(
        drifts, key=lambda d: (-(np.inf if d.distance is None else d.distance), d.feature)
    )


def series(
    training: pa.Table,
    weekly: Sequence[tuple[datetime, pa.Table]],
    at: datetime,
    config: DriftConfig,
) -> list[dict[str, Any]]:
    """Rows of `reports.DRIFT`: each week against the training period and against the week before.

    `label` is compared in weeks whose outcomes are all known.
    """
    rows: list[dict[str, Any]] = []
    before: pa.Table | None = None
    for week, window in weekly:
        if window.num_rows < config.min_rows:
            continue
        rows += drift_rows(*_compared(training, window), "training", week, at, config)
        if before is not None:
            rows += drift_rows(*_compared(before, window), "previous", week, at, config)
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


def subject_of(column: str) -> Literal["feature", "growing", "prediction", "target"]:
    """What a compared column is; only of the first kind is it counted whether it drifted."""
    if column in (PREDICTION, TARGET):
        return "prediction" if column == PREDICTION else "target"
    return "growing" if column in GROWING else "feature"


def page(settings: Settings) -> Path:
    """Path of Evidently's own report on the last comparison."""
    return settings.reports / "evidently.html"


def write_page(
    settings: Settings, reference: pa.Table, current: pa.Table, config: DriftConfig
) -> Path:
    """Evidently's full report: drift with histograms, data summary, classification performance.

    `label` and `probability` are reported as a classification where both classes are known.

    Raises:
        NextbuyError: Evidently fails on these columns.
    """
    from evidently import BinaryClassification, DataDefinition, Dataset, Report
    from evidently.legacy.calculations.stattests import register_stattest
    from evidently.legacy.calculations.stattests.registry import StatTest
    from evidently.legacy.core import ColumnType
    from evidently.presets import ClassificationPreset, DataDriftPreset, DataSummaryPreset

    register_stattest(  # by a name: what is passed as a function cannot be saved
        StatTest(
            name="robust",
            display_name="Robust distance",
            allowed_feature_types=[ColumnType.Numerical],
            default_threshold=config.numeric_threshold,
        ),
        lambda old, new, _, threshold: ((distance := _robust(old, new)), distance >= threshold),
    )
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
    overrides = {name: o for name, o in config.features.items() if name in shown}
    presets: list[Any] = [
        DataDriftPreset(
            columns=shown,
            num_method=config.numeric_method,
            num_threshold=config.numeric_threshold,
            cat_method=config.category_method,
            cat_threshold=config.category_threshold,
            per_column_method={n: o.method for n, o in overrides.items() if o.method},
            per_column_threshold={n: o.threshold for n, o in overrides.items() if o.threshold},
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
    try:
        with replacing(page(settings)) as file:
            Report(presets).run(*data).save_html(str(file))
    except Exception as error:  # theirs has no common base, and the run's numbers stand without it
        raise NextbuyError(
            f"Evidently's full report could not be made: {type(error).__name__}: {error}. "
            "Run without it: nextbuy monitor --no-pages"
        ) from error
    return page(settings)


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
    is_text = pa.types.is_string(reference.schema.field(name).type)
    override = config.features.get(name, MethodOverride())
    method = override.method or (config.category_method if is_text else config.numeric_method)
    threshold = override.threshold or (
        config.category_threshold if is_text else config.numeric_threshold
    )
    if is_text and method in NUMBERS_ONLY:
        raise NextbuyError(
            f"configs/monitoring.yaml: drift.features.{name}.method: {method} compares numbers, "
            f"and {name} is text. Use jensenshannon or psi."
        )
    old, new = (window[name].drop_null() for window in (reference, current))
    if not len(old) and not len(new):
        return None
    distance: float | None = None
    if len(old) and len(new):
        if not is_text:
            old, new = old.cast(pa.float64()), new.cast(pa.float64())
        distance = METHODS[method](old.to_pandas(), new.to_pandas())
    return FeatureDrift(
        feature=name,
        method=method,
        distance=distance,
        threshold=threshold,
        is_drifted=distance is None or distance >= threshold,
        missing=current[name].null_count / current.num_rows,
    )


def _robust(old: pd.Series, new: pd.Series) -> float:
    """The larger of two distances that both count standard deviations, on any scale.

    In a heavy tail a rise of all values is small beside the deviation: ranks see it. Of a column
    that is mostly zero a rise of the rest changes few ranks: the values see it.
    """
    return max(_clipped(old, new), _ranks(old, new))


def _ranks(old: pd.Series, new: pd.Series) -> float:
    """Earth mover's distance between the places that the values have among the reference's.

    A place is the share of the reference's values below a value, ties by half: 0 to 1.77.
    """
    values = np.sort(old.to_numpy())

    def places(rows: pd.Series) -> NDArray[np.float64]:
        below, up_to = (np.searchsorted(values, rows, side) for side in ("left", "right"))
        return np.asarray((below + up_to) / (2 * len(values)), np.float64)

    return float(RANKS_A_DEVIATION * wasserstein_distance(places(old), places(new)))


def _clipped(old: pd.Series, new: pd.Series) -> float:
    """Earth mover's distance in standard deviations of the reference, without its outliers.

    Both windows are clipped where neither has more than a few rows; so what has moved beyond the
    reference still counts.
    """
    (low, high), (lowest, highest) = (rows.quantile(list(ENDS)) for rows in (old, new))
    middle = old.clip(low, high) if low < high else old  # else nearly all rows are equal
    old, new = (rows.clip(min(low, lowest), max(high, highest)) for rows in (old, new))
    deviation = float(middle.std(ddof=0)) or float(pd.concat([old, new]).std(ddof=0))
    return float(wasserstein_distance(old, new) / deviation) if deviation else 0.0


def _wasserstein(old: pd.Series, new: pd.Series) -> float:
    """Earth mover's distance in standard deviations of the reference, 0.001 at least.

    One outlier widens the deviation and hides the rest; a column of smaller scale cannot move.
    """
    return float(wasserstein_distance(old, new) / max(float(old.std(ddof=0)), 0.001))


def _jensenshannon(old: pd.Series, new: pd.Series) -> float:
    """Jensen-Shannon distance (natural logarithm), 0 to 0.83."""
    return float(jensenshannon(*_shares(old, new)))


def _psi(old: pd.Series, new: pd.Series) -> float:
    """Population stability index; a bin that one window lacks gets a small share of its own."""
    old_shares, new_shares = map(_without_zeros, _shares(old, new))
    return float(((old_shares - new_shares) * np.log(old_shares / new_shares)).sum())


METHODS: dict[str, Callable[[pd.Series, pd.Series], float]] = {
    "robust": _robust,
    "wasserstein": _wasserstein,
    "jensenshannon": _jensenshannon,
    "psi": _psi,
}


def _shares(old: pd.Series, new: pd.Series) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Shares of the rows per bin: Sturges' bins over both windows, or one bin a value."""
    if old.dtype == np.float64 and old.nunique() > MAX_DISTINCT:
        edges = np.histogram_bin_edges(np.concatenate([old, new]), bins="sturges")
        old_counts, new_counts = np.histogram(old, edges)[0], np.histogram(new, edges)[0]
        return old_counts / len(old), new_counts / len(new)
    counts = pd.concat([old.value_counts(), new.value_counts()], axis=1).fillna(0).to_numpy()
    return counts[:, 0] / len(old), counts[:, 1] / len(new)


def _without_zeros(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    least = float(shares[shares > 0].min())
    return np.where(shares == 0, least / 1e6 if least <= 0.0001 else 0.0001, shares)


def _compared(reference: pa.Table, current: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Both with the columns that are compared; the target only where all of it is known."""
    names = [name for name in current.column_names if "__" in name]
    vanished = [name for name in reference.column_names if "__" in name and name not in names]
    names += [name for name in (PREDICTION,) if name in reference.column_names]
    if current[TARGET].null_count == 0 and reference[TARGET].null_count == 0:
        names.append(TARGET)
    shared = [name for name in names if name in reference.column_names]
    return reference.select([*shared, *vanished]), current.select(names)


def _sampled(table: pa.Table) -> pa.Table:
    step = max(1, table.num_rows // SAMPLE_ROWS)
    return table.take(pa.array(range(0, table.num_rows, step)))
