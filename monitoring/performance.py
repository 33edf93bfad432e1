"""How good the predictions were, week by week, once their outcomes are known.

A week is measured when the horizon of its last prediction is over. Before that its known outcomes
are those of shoppers who came back soon: a biased part. Until then there is an estimate from the
probabilities alone, which holds as far as they are calibrated
(confidence-based performance estimation; docs/monitoring.md).
"""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import Field
from sklearn.metrics import average_precision_score

from monitoring import reports
from monitoring.weeks import WEEK, weeks
from nextbuy.models.economics import ContactEconomics, OfferConfig, profit
from nextbuy.models.metrics import expected_calibration_error, precision_at_top, top_weights
from nextbuy.settings import Settings


class PerformanceConfig(ContactEconomics):
    """What a contact costs and earns, and the smallest week that is measured."""

    min_rows: int = Field(default=200, ge=20)
    """A week with fewer rows is not measured."""


class WindowMetrics(NamedTuple):
    """Metrics of one window of predictions; None where one is not known."""

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
    """The rows of `reports.PERFORMANCE` for predictions with outcomes.

    Args:
        rows: `predicted_at, probability, label` and, where there is one, `state`.
        origin: `served` or `backtest`.
        horizon: of the label.
        newest: time of the newest event.
        at: the moment of the run.
        config: economics and smallest week.
    """
    measured = []
    for week, part in weeks(rows):
        probability = np.asarray(part["probability"].to_numpy(), np.float64)
        label = part["label"].to_pandas().to_numpy(float)
        has_matured = week + WEEK + horizon <= newest
        is_known = ~np.isnan(label)
        states = part["state"].to_pylist() if "state" in part.column_names else []
        censored = states.count("censored")
        metrics: WindowMetrics | None = None
        if part.num_rows < config.min_rows:
            state = "too few"
        elif not has_matured:
            state, metrics = "estimated", estimate(probability, config)
        elif not 0 < label[is_known].sum() < is_known.sum():
            state = "one class"
        else:
            state = "measured"
            metrics = measure(label[is_known], probability[is_known], config)
        values = metrics._asdict() if metrics else dict.fromkeys(WindowMetrics._fields)
        values["mean_probability"] = float(probability.mean())
        measured.append(
            {
                "measured_at": at,
                "origin": origin,
                "week": week,
                "state": state,
                "rows": part.num_rows,
                "open": int((~is_known).sum()) - censored,
                "censored": censored,
                **values,
            }
        )
    return measured


def unsettled_since(settings: Settings) -> datetime | None:
    """The first Monday whose served predictions can still get other outcomes; None: all of them.

    A week that was over, and measured with every outcome known, stays as it was measured.
    """
    reported = sorted(reports.folder(settings, reports.PERFORMANCE).glob("*.parquet"))
    if not reported:
        return None
    rows = pq.read_table(reported, filters=[("origin", "=", "served")]).to_pandas()
    last = rows.sort_values("measured_at").groupby("week").tail(1)
    is_over = last["week"] + WEEK <= last["measured_at"]
    is_known = (last["open"] + last["censored"] == 0) & (last["state"] != "estimated")
    is_settled = zip(last["week"], is_over & is_known, strict=True)
    moments = {week.to_pydatetime(): bool(settled) for week, settled in is_settled}
    unsettled = [week for week, settled in moments.items() if not settled]
    return min(unsettled) if unsettled else max(moments) + WEEK if moments else None


def measure(
    label: NDArray[np.float64], probability: NDArray[np.float64], config: PerformanceConfig
) -> WindowMetrics:
    """Metrics from outcomes; both arrays have shape (rows,)."""
    ones = np.ones(len(probability))
    return WindowMetrics(
        base_rate=float(label.mean()),
        mean_probability=float(probability.mean()),
        pr_auc=float(average_precision_score(label, probability)),
        precision_at_5=precision_at_top(label, probability, ones),
        calibration_error=expected_calibration_error(label, probability, ones),
        profit=_profit_at_top(label, probability, config),
    )


def estimate(probability: NDArray[np.float64], config: PerformanceConfig) -> WindowMetrics:
    """The expected result of `measure` if each probability is true."""
    ordered = np.sort(probability)[::-1]
    precision = np.cumsum(ordered) / np.arange(1, len(ordered) + 1)
    total = float(ordered.sum())
    return WindowMetrics(
        base_rate=float(probability.mean()),
        mean_probability=float(probability.mean()),
        pr_auc=float((precision * ordered).sum() / total) if total else None,
        precision_at_5=precision_at_top(probability, probability, np.ones(len(probability))),
        calibration_error=None,  # assumed to be none, so it cannot be estimated
        profit=_profit_at_top(probability, probability, config),
    )


def profit_curve(
    label: NDArray[np.float64], probability: NDArray[np.float64], config: PerformanceConfig
) -> list[tuple[float, float, float]]:
    """Share of the rows contacted, lift over chance, profit in cents, for 1 % to 100 %."""
    offer = OfferConfig(margin_cents=config.margin_cents, cost_cents=config.cost_cents)
    hits = np.cumsum(label[np.argsort(-probability, kind="stable")])
    curve = []
    for point in profit(label.astype(np.int8), probability, offer)["curve"][1:]:
        n = round(point["share"] * len(label))
        lift = float(hits[n - 1] / n / label.mean()) if label.any() else 0.0
        curve.append((point["share"], lift, point["realized_cents"]))
    return curve


def _profit_at_top(
    label: NDArray[np.float64], probability: NDArray[np.float64], config: PerformanceConfig
) -> float:
    """Cents earned by contacting the top share of the rows."""
    contacts = top_weights(probability, np.ones(len(probability)))
    earned = (contacts * label).sum() * config.margin_cents
    return float(earned - contacts.sum() * config.cost_cents)
