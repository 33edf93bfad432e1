"""What a model must show before it may serve. Each gate passes or fails, and says why."""

import time
from collections.abc import Callable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from sklearn.metrics import average_precision_score

from nextbuy.models.metrics import expected_calibration_error
from nextbuy.shop import ShopSettings
from nextbuy.shop_clock import UTC_CLOCK, ShopClock
from training.breakdowns import MIN_POSITIVES_TO_REPORT, slices
from training.metrics import RANKING, Sample, paired_difference

Vector = NDArray[np.float64]
PR_AUC = RANKING["pr_auc"]


class GateConfig(BaseModel):
    """The limit of each gate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_calibration_error: float = Field(default=0.02, gt=0)
    max_slice_loss: float = Field(default=0.03, ge=0)
    """PR-AUC that no slice may significantly lose to the champion."""
    max_latency_ms: float = Field(default=20, gt=0)
    """Median of scoring 50 rows on one thread."""
    max_parity_share: float = Field(default=0, ge=0, lt=1)
    """Share of the values that the service used which may differ from what training computes."""
    near: float = Field(default=0.9, gt=0, le=1)
    """A single feature, or time and position alone, that reaches this share of the model's gain in
    PR-AUC over the base rate points to a leak."""


class GateResult(BaseModel):
    """One gate's verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    passed: bool | None
    """None: not measured, which keeps no model out."""
    why: str

    @property
    def verdict(self) -> str:
        """`passed`, `FAILED` or `not measured`."""
        return {True: "passed", False: "FAILED", None: "not measured"}[self.passed]


def same_settings(
    tables: ShopSettings,
    challenger: ShopSettings | None,
    champion: ShopSettings | None,
    is_change_allowed: bool,
) -> GateResult:
    """The challenger answers the champion's question, and these tables can judge it.

    None: a model of an older version, which does not say.
    """
    name = "same settings"
    if challenger and (differing := challenger.compared_with(tables)):
        why = f"trained with {differing} as in these tables; train again: nextbuy train"
        return GateResult(name=name, passed=False, why=why)
    ours = challenger or tables
    if champion and (differing := ours.compared_with(champion)):
        why = f"{differing} as the champion: its probabilities answer another question"
        if not is_change_allowed:
            why += ". To change it on purpose: nextbuy promote --other-settings"
        return GateResult(name=name, passed=is_change_allowed, why=why)
    unknown = "" if champion and challenger else "; a model that does not say is taken to have them"
    return GateResult(name=name, passed=True, why=f"{ours}{unknown}")


def better(sample: Sample, score: Vector, other: Vector, name: str) -> GateResult:
    """PR-AUC above the other score's, the paired interval above zero."""
    gain = paired_difference(sample, score, other, PR_AUC)
    return GateResult(
        name="better",
        passed=gain["low"] > 0,
        why=f"PR-AUC {gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f}) "
        f"against {name}; the interval must lie above 0",
    )


def calibrated(sample: Sample, score: Vector, config: GateConfig) -> GateResult:
    """Probabilities close to the observed shares."""
    error = expected_calibration_error(sample.labels, score, np.ones(len(score)))
    return GateResult(
        name="calibrated",
        passed=error <= config.max_calibration_error,
        why=f"calibration error {error:.4f}, at most {config.max_calibration_error:g}",
    )


def no_slice_lost(
    sample: Sample,
    table: pa.Table,
    score: Vector,
    champion: Vector,
    config: GateConfig,
    clock: ShopClock = UTC_CLOCK,
) -> GateResult:
    """No slice significantly worse than under the champion by more than the limit."""
    lost, compared = [], 0
    for name, rows in slices(table, sample.labels, clock):
        compared += 1
        gain = paired_difference(sample.where(rows), score[rows], champion[rows], PR_AUC, 50)
        if gain["value"] < -config.max_slice_loss and gain["high"] < 0:
            lost.append(f"{name} {gain['value']:+.3f}")
    if not compared:
        why = f"no slice has {MIN_POSITIVES_TO_REPORT} positive rows and a negative one"
        return GateResult(name="slices", passed=None, why=why)
    return GateResult(
        name="slices",
        passed=not lost,
        why=f"lost: {', '.join(lost)}"
        if lost
        else f"none of {compared} slices is significantly worse",
    )


def not_above_oracle(sample: Sample, score: Vector, oracle: Vector) -> GateResult:
    """Not significantly above the true probability, which only a leak of the outcome allows."""
    gain = paired_difference(sample, score, oracle, PR_AUC)
    return GateResult(
        name="not above the oracle",
        passed=gain["low"] <= 0,
        why=f"PR-AUC {gain['value']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f}) against the "
        "true probability; significantly above it, a feature must know the outcome",
    )


def no_single_feature_leakage(
    sample: Sample, table: pa.Table, features: tuple[str, ...], score: Vector, config: GateConfig
) -> GateResult:
    """No feature alone, in either direction, comes near the whole model."""
    base, whole = _base(sample), average_precision_score(sample.labels, score)
    alone = {name: _alone(sample, table[name]) for name in features}
    name = max(alone, key=lambda feature: alone[feature])
    share = (alone[name] - base) / max(whole - base, 1e-12)
    return GateResult(
        name="no single-feature leakage",
        passed=share < config.near,
        why=f"{name} alone has PR-AUC {alone[name]:.4f}, {share:.0%} of the model's gain "
        f"({whole:.4f}) over the base rate; from {config.near:.0%} on it looks like a leak",
    )


def beats_time_and_position(
    sample: Sample, baseline: Vector, score: Vector, config: GateConfig
) -> GateResult:
    """Time and position alone do not come near the whole model."""
    base, whole = _base(sample), average_precision_score(sample.labels, score)
    alone = average_precision_score(sample.labels, baseline)
    share = (alone - base) / max(whole - base, 1e-12)
    return GateResult(
        name="beats time and position",
        passed=share < config.near,
        why=f"time and position alone have PR-AUC {alone:.4f}, {share:.0%} of the model's gain "
        f"({whole:.4f}) over the base rate; from {config.near:.0%} on the sampling gives it away",
    )


def fast(
    predict: Callable[[NDArray[np.float32]], Vector], width: int, config: GateConfig
) -> GateResult:
    """Scoring one request's rows takes no longer than the limit."""
    rows = np.random.default_rng(7).random((50, width)).astype(np.float32)
    taken = []
    for _ in range(30):
        began = time.perf_counter()
        predict(rows)
        taken.append(1000 * (time.perf_counter() - began))
    median = float(np.median(taken))
    return GateResult(
        name="fast",
        passed=median <= config.max_latency_ms,
        why=f"50 rows in {median:.2f} ms (median of 30), at most {config.max_latency_ms:g}",
    )


def _base(sample: Sample) -> float:
    return float(sample.labels.mean())


def _alone(sample: Sample, column: pa.ChunkedArray) -> float:
    """PR-AUC of one feature: its own order or the reverse; of a category, its rows' own rate."""
    labels = sample.labels
    if pa.types.is_string(column.type):
        names = np.array([value or "" for value in column.to_pylist()])
        codes = np.unique(names, return_inverse=True)[1]
        # With the row itself left out: a category of one row would give its label away.
        count, positives = np.bincount(codes)[codes], np.bincount(codes, labels)[codes]
        values = (positives - labels + _base(sample)) / count
        return float(average_precision_score(labels, values))
    values = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(), np.float64)
    known = values[np.isfinite(values)]
    if not len(known):
        return _base(sample)
    up = np.nan_to_num(values, nan=known.min() - 1, posinf=known.max(), neginf=known.min())
    down = np.nan_to_num(-values, nan=-known.max() - 1, posinf=-known.min(), neginf=-known.max())
    return float(max(average_precision_score(labels, v) for v in (up, down)))
