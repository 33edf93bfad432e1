"""A model on the untouched last period, beside the baselines and the best possible score."""

import json
from typing import Any

import mlflow
import numpy as np
from numpy.typing import NDArray

from nextbuy.contract import CHALLENGER, CHAMPION
from nextbuy.errors import NextbuyError
from nextbuy.models import registry
from nextbuy.models.economics import profit
from nextbuy.settings import Settings
from nextbuy.versioned_table import fingerprint, manifest
from training.baselines import anchor_scores, logistic_scores, rule_scores
from training.dataset import Dataset, sample_of
from training.early_session import value_at_prefix
from training.metrics import (
    PROBABILITY,
    RANKING,
    Interval,
    paired_difference,
    session_ranking,
    with_intervals,
)
from training.model_card import write_card
from training.oracle import true_probability
from training.sessions import session_level
from training.slices import slices
from training.train import CODE, TrainConfig

RULE_METRICS = {name: RANKING[name] for name in ("pr_auc", "precision_at_5")}
"""A rule ranks, and coarsely: the order at the top is all it claims."""
SLICE_METRICS = {
    "pr_auc": RANKING["pr_auc"],
    "roc_auc": RANKING["roc_auc"],
    "calibration_error": PROBABILITY["calibration_error"],
}
ORACLE = "oracle (the true probability)"


def evaluate(
    settings: Settings, dataset: Dataset, config: TrainConfig, alias: str = CHAMPION
) -> dict[str, Any]:
    """Metrics of a model, of the baselines and, on simulated data, of the oracle.

    Writes `reports/evaluation.json` (of a challenger: `evaluation-challenger.json`) and a model
    card beside it, and logs both to the model's MLflow run with the plots. The test period is read
    here and by `nextbuy promote`, nowhere else. Where nothing changed, the kept report is returned.

    Returns:
        `{"inputs", "champion", "family", "version", "test": {...}, "models": {name: {metric:
        {"value", "low", "high"}}}, "achievable": {metric: share} | None, "over_best_baseline":
        {"baseline", "ratio", "difference"}, "slices": {name: {"rows", "positives", "metrics"}},
        "prefix": {number of events: {...}} | None, "sessions": {...}, "decisions": {...}}`;
        "champion" names the model's own row in "models".

    Raises:
        NextbuyError: no model has this alias.
    """
    client = registry.client(settings)
    with registry.reachable(settings):
        version = registry.version_of(client, alias)
    if version is None:
        raise NextbuyError(f"There is no {alias} yet. Make one with: nextbuy train")
    truth = manifest(settings.truth)
    inputs = fingerprint(
        dataset.digest,
        version.version,
        version.run_id,
        truth.fingerprint if truth else None,
        config.offer.model_dump(),
        *CODE,
    )
    suffix = "" if alias == CHAMPION else f"-{CHALLENGER}"
    report_file = settings.reports / f"evaluation{suffix}.json"
    if report_file.exists():
        kept: dict[str, Any] = json.loads(report_file.read_text())
        if kept.get("inputs") == inputs:
            return kept

    booster = registry.load_version(settings, version).booster
    contract = booster.contract
    test = dataset.part("test")
    sample = sample_of(test)
    named = f"{alias} ({contract.family})"
    scored = booster.score(test)
    oracle = true_probability(settings, test)
    train, labels = dataset.part("train"), dataset.labels("train")
    probable = {
        **({ORACLE: oracle} if oracle is not None else {}),
        named: scored,
        "logistic regression": logistic_scores(contract, train, labels, test),
        "time and position": anchor_scores(contract, train, labels, test),
    }
    models: dict[str, dict[str, Interval]] = {
        name: with_intervals(sample.labels, s, sample.users, {**RANKING, **PROBABILITY})
        | session_ranking(sample, s)
        for name, s in probable.items()
    }
    rules = rule_scores(test)
    for name, rule in rules.items():
        models[name] = with_intervals(sample.labels, rule, sample.users, RULE_METRICS)
    baselines = {n: s for n, s in {**probable, **rules}.items() if n not in (ORACLE, named)}
    best = max(baselines, key=lambda name: models[name]["pr_auc"]["value"])
    report = {
        "inputs": inputs,
        "champion": named,
        "family": contract.family,
        "version": str(version.version),
        "test": _period(dataset, sample.labels),
        "models": models,
        "achievable": _achievable(models, named, sample.labels) if oracle is not None else None,
        "over_best_baseline": {
            "baseline": best,
            "ratio": models[named]["pr_auc"]["value"] / models[best]["pr_auc"]["value"],
            "difference": paired_difference(sample, scored, baselines[best], RANKING["pr_auc"]),
        },
        "slices": {
            name: {
                "rows": int(rows.sum()),
                "positives": int(sample.labels[rows].sum()),
                "metrics": with_intervals(
                    sample.labels[rows], scored[rows], sample.users[rows], SLICE_METRICS, 40
                ),
            }
            for name, rows in slices(test, sample.labels)
        },
        "prefix": value_at_prefix(settings, booster, test, scored),
        "sessions": session_level(sample, {**baselines, named: scored}, named),
        "decisions": profit(sample.labels, scored, config.offer),
    }
    settings.reports.mkdir(parents=True, exist_ok=True)
    card = write_card(
        settings.reports / f"model_card{suffix}", report, sample.labels, probable, booster, test,
    )  # fmt: skip
    with registry.reachable(settings), mlflow.start_run(run_id=version.run_id):
        mlflow.log_metrics({f"test_{k}": v["value"] for k, v in models[named].items()})
        mlflow.log_dict(report, "evaluation.json")
        mlflow.log_artifacts(str(card))
    report_file.write_text(json.dumps(report, indent=1))
    return report


def _period(dataset: Dataset, labels: NDArray[np.int8]) -> dict[str, Any]:
    start, end = dataset.splits.test
    return {
        "from": start.isoformat(),
        "to": end.isoformat(),
        "rows": len(labels),
        "positives": int(labels.sum()),
        "base_rate": float(labels.mean()),
    }


def _achievable(
    models: dict[str, dict[str, Interval]], named: str, labels: NDArray[np.int8]
) -> dict[str, float]:
    """(model - base) / (oracle - base): how much of what can be known the model knows."""
    base = float(labels.mean())
    entropy = float(-(base * np.log(base) + (1 - base) * np.log(1 - base)))
    floors = {"pr_auc": base, "log_loss": entropy}
    return {
        metric: (models[named][metric]["value"] - floor) / (models[ORACLE][metric]["value"] - floor)
        for metric, floor in floors.items()
    }
