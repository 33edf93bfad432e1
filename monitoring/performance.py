"""How good the predictions were, week by week, once their outcomes are known.

A week is measured when the horizon of its last prediction is over. Before that its known outcomes
are those of shoppers who came back soon: measuring them would flatter or slander the model. Until
then there is an estimate from the probabilities alone, which holds as far as they are calibrated
(confidence-based performance estimation; docs/monitoring.md).
"""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from sklearn.metrics import average_precision_score

from monitoring import reports
from monitoring.weeks import WEEK, weeks
from nextbuy.settings import Settings

TOP = 0.05
BINS = 10


class PerformanceConfig(BaseModel):
    """What a hit is worth and from how many rows on a week is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gain_cents: int = Field(default=800, ge=0)
    """Margin of a purchase that was singled out."""
    contact_cents: int = Field(default=100, ge=0)
    """Cost of singling out one shopper and item."""
    min_rows: int = Field(default=200, ge=20)
    """A week with fewer rows is not measured."""


class WindowMetrics(NamedTuple):
    """Of one window; None where it cannot be said."""

    base_rate: float | None
    mean_probability: float
    pr_auc: float | None
    precision_at_5: float | None
    calibration_error: float | None
    profit: float | None


def by_week(
    rows: pa.Table,
    origin: str,
    horizon: timedelta,
    newest: datetime,
    at: datetime,
    config: PerformanceConfig,
) -> list[dict[str, Any]]:
    """The rows of `reports.PERFORMANCE` for judged predictions.

    Args:
        rows: `predicted_at, probability, label` and, where there is one, `state`.
        origin: `served` or `backtest`.
        horizon: of the label.
        newest: time of the newest event.
        at: the moment of the run.
        config: worth of a hit, smallest week.
    """
    found = []
    for week, part in weeks(rows):
        probability = np.asarray(part["probability"].to_numpy(), np.float64)
        label = part["label"].to_pandas().to_numpy(float)
        is_ripe = week + timedelta(days=7) + horizon <= newest
        n_open = int(np.isnan(label).sum())
        states = part["state"].to_pylist() if "state" in part.column_names else []
        censored = states.count("censored")
        known = ~np.isnan(label)
        if part.num_rows < config.min_rows:
            state, seen = "too few", None
        elif not is_ripe:
            state, seen = "estimated", estimate(probability, config)
        elif not 0 < label[known].sum() < known.sum():
            state, seen = "one class", None
        else:
            state, seen = "measured", measure(label[known], probability[known], config)
        values = seen._asdict() if seen else dict.fromkeys(WindowMetrics._fields)
        values["mean_probability"] = float(probability.mean())
        found.append(
            {
                "measured_at": at,
                "origin": origin,
                "week": week,
                "state": state,
                "rows": part.num_rows,
                "open": n_open - censored,
                "censored": censored,
                **values,
            }
        )
    return found


def unsettled_since(settings: Settings) -> datetime | None:
    """The Monday from which on outcomes of served predictions can still move; None: all of them.

    A week that was over, and measured with every outcome known, stays as it was measured.
    """
    kept = sorted(reports.folder(settings, reports.PERFORMANCE).glob("*.parquet"))
    if not kept:
        return None
    rows = pq.read_table(kept, filters=[("origin", "=", "served")]).to_pandas()
    last = rows.sort_values("measured_at").groupby("week").tail(1)
    is_over = last["week"] + WEEK <= last["measured_at"]
    is_known = (last["open"] + last["censored"] == 0) & (last["state"] != "estimated")
    is_settled = zip(last["week"], is_over & is_known, strict=True)
    moments = {week.to_pydatetime(): bool(settled) for week, settled in is_settled}
    moving = [week for week, settled in moments.items() if not settled]
    return min(moving) if moving else max(moments) + WEEK if moments else None


def measure(
    label: NDArray[np.float64], probability: NDArray[np.float64], config: PerformanceConfig
) -> WindowMetrics:
    """From outcomes."""
    top = _top(probability)
    hits = float(label[top].sum())
    return WindowMetrics(
        base_rate=float(label.mean()),
        mean_probability=float(probability.mean()),
        pr_auc=float(average_precision_score(label, probability)),
        precision_at_5=float(label[top].mean()),
        calibration_error=float(
            sum(abs(seen - said) * n for said, seen, n in calibration(label, probability))
            / len(label)
        ),
        profit=hits * config.gain_cents - len(top) * config.contact_cents,
    )


def estimate(probability: NDArray[np.float64], config: PerformanceConfig) -> WindowMetrics:
    """What `measure` is to be expected to say if each probability is true."""
    ordered = np.sort(probability)[::-1]
    precision = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    top = _top(probability)
    hits = float(probability[top].sum())
    total = float(ordered.sum())
    return WindowMetrics(
        base_rate=float(probability.mean()),
        mean_probability=float(probability.mean()),
        pr_auc=float((precision * ordered).sum() / total) if total else None,
        precision_at_5=float(probability[top].mean()),
        calibration_error=None,  # taken for granted, so it cannot be estimated
        profit=hits * config.gain_cents - len(top) * config.contact_cents,
    )


def calibration(
    label: NDArray[np.float64], probability: NDArray[np.float64]
) -> list[tuple[float, float, int]]:
    """Mean probability, share of positives and rows of ten equally large groups, in order."""
    order = np.argsort(probability, kind="stable")
    return [
        (float(probability[part].mean()), float(label[part].mean()), len(part))
        for part in np.array_split(order, BINS)
        if len(part)
    ]


def profit_curve(
    label: NDArray[np.float64], probability: NDArray[np.float64], config: PerformanceConfig
) -> list[tuple[float, float, float]]:
    """Share singled out, lift over chance, profit in cents, for 1 % to 100 %."""
    order = np.argsort(-probability, kind="stable")
    hits = np.cumsum(label[order])
    base = float(label.mean())
    curve = []
    for percent in range(1, 101):
        n = max(1, len(order) * percent // 100)
        lift = float(hits[n - 1]) / n / base if base else 0.0
        profit = float(hits[n - 1]) * config.gain_cents - n * config.contact_cents
        curve.append((percent / 100, lift, profit))
    return curve


def _top(probability: NDArray[np.float64]) -> NDArray[np.intp]:
    n = max(1, int(len(probability) * TOP))
    return np.argsort(-probability, kind="stable")[:n]
