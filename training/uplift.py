"""Which shoppers an offer moves, which is another question than who will buy.

Needs a randomized arm: rows whose shoppers got an offer by chance. The simulated shop has one
(`nextbuy simulate --offer-share 0.5`) and knows the true effect of each offer.
"""

import json
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextbuy import atomic
from nextbuy.contract import FEATURE_SERVICE
from nextbuy.errors import NextbuyError
from nextbuy.models.booster import fit_booster
from nextbuy.settings import Settings
from nextbuy.versioned_table import require
from training.config import TrainConfig
from training.dataset import Dataset, sample_of
from training.evaluate import truth_of
from training.metrics import Labels, Sample, Vector, interval, resamples
from training.train import contract_for

Flags = NDArray[np.bool_]
ARMS = {"offered": True, "not offered": False}


def uplift(
    settings: Settings, dataset: Dataset, config: TrainConfig, family: str
) -> dict[str, Any]:
    """Two models, one an arm; their difference ranks shoppers by what an offer would add.

    Each arm is fitted on its own training rows and stopped on its own validation rows (the
    T-learner of Künzel et al., 2019). The test rows are ranked by the difference, by the plain
    propensity (the model of the rows without an offer), and by the true effect. Writes
    `reports/uplift.json`.

    Returns:
        `{"rows", "offered", "effect", "qini": {ranking: {"value", "low", "high"}}, "correlation",
        "curve": {ranking: [[share, purchases gained], ...]}}`; "effect" is the mean difference of
        the arms in the test period, "correlation" that of predicted and true effect.

    Raises:
        NextbuyError: no offers were randomized, or an arm has one class only.
    """
    require(settings.truth, "nextbuy simulate --offer-share 0.5")
    offered, effect = zip(
        *(_arm(settings, dataset.part(split)) for split in ("train", "validation", "test")),
        strict=True,
    )
    contract = contract_for(
        dataset.part("train"), dataset.features, FEATURE_SERVICE, family, config.model
    )
    parts = {name: contract.matrix(dataset.part(name)) for name in ("train", "validation", "test")}
    scores = {}
    for name, arm in ARMS.items():
        rows = [which == arm for which in offered[:2]]
        known = [dataset.labels(split)[r] for split, r in zip(parts, rows, strict=False)]
        if any(not 0 < part.sum() < len(part) for part in known):
            raise NextbuyError(
                f"The arm {name!r} has one class only. Simulate a larger shop, or an offer share "
                "nearer to one half: nextbuy simulate --offer-share 0.5"
            )
        booster = fit_booster(
            contract,
            (parts["train"][rows[0]], known[0]),
            (parts["validation"][rows[1]], known[1]),
            config.model,
        )
        scores[name] = booster.predict(parts["test"])
    sample, treated, true_effect = sample_of(dataset.part("test")), offered[2], effect[2]
    rankings = {
        "uplift model": scores["offered"] - scores["not offered"],
        "propensity": scores["not offered"],
        "true effect": true_effect,
    }
    labels = sample.labels
    report = {
        "rows": len(labels),
        "offered": int(treated.sum()),
        "effect": float(labels[treated].mean() - labels[~treated].mean()),
        "qini": {name: _qini(sample, treated, score) for name, score in rankings.items()},
        "correlation": float(np.corrcoef(rankings["uplift model"], true_effect)[0, 1]),
        "curve": {
            name: _points(*qini_curve(labels, treated, score, np.ones(len(labels))))
            for name, score in rankings.items()
        },
    }
    atomic.write_text(settings.reports / "uplift.json", json.dumps(report, indent=1))
    return report


def qini_curve(
    labels: Labels, treated: Flags, score: Vector, weights: Vector
) -> tuple[Vector, Vector]:
    """Purchases gained by making the offer to the top share of the rows (Radcliffe, 2007).

    The gain at n rows is the treated purchases less the control purchases scaled to as many
    treated rows, both among the first n; per row of the whole sample.

    Returns:
        shares from 0 to 1 and the gain at each, both of shape (rows + 1,).
    """
    order = np.argsort(-score, kind="stable")
    arm, label, weight = treated[order], labels[order], weights[order]
    n_treated, n_control = np.cumsum(weight * arm), np.cumsum(weight * ~arm)
    bought_treated = np.cumsum(weight * arm * label)
    bought_control = np.cumsum(weight * ~arm * label)
    scaled = bought_control * n_treated / np.maximum(n_control, 1e-12)
    gain = np.where(n_control > 0, bought_treated - scaled, 0.0) / weight.sum()
    share = np.cumsum(weight) / weight.sum()
    return np.concatenate([[0.0], share]), np.concatenate([[0.0], gain])


def qini(labels: Labels, treated: Flags, score: Vector, weights: Vector) -> float:
    """Area between the Qini curve and the line of offering at random."""
    share, gain = qini_curve(labels, treated, score, weights)
    return float(np.trapezoid(gain - share * gain[-1], share))


def _qini(sample: Sample, treated: Flags, score: Vector) -> dict[str, float]:
    drawn = [qini(sample.labels, treated, score, w) for w in resamples(sample.users)]
    return interval(qini(sample.labels, treated, score, np.ones(len(score))), drawn)


def _points(share: Vector, gain: Vector) -> list[list[float]]:
    at = np.linspace(0, len(share) - 1, 51).astype(int)
    return [[float(share[n]), float(gain[n])] for n in at]


def _arm(settings: Settings, part: pa.Table) -> tuple[Flags, Vector]:
    """Whether each row's shopper got an offer, and the true effect of one."""
    rows = truth_of(settings, part, "is_offered", "uplift")
    if rows["uplift"].null_count:
        raise NextbuyError(
            "This shop made no offers at random, so nothing can be said about their effect. "
            "Simulate one that does: nextbuy simulate --offer-share 0.5"
        )
    return (
        np.asarray(rows["is_offered"].to_numpy(), bool),
        np.asarray(rows["uplift"].to_numpy(), np.float64),
    )
