"""The champion on the untouched last period, beside the baselines and the best possible score."""

import json
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextbuy.contract import CHAMPION, REGISTERED_MODEL
from nextbuy.engine import duckdb_engine
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.storage import files, fingerprint, manifest
from training import registry
from training.baselines import logistic_scores, rule_scores
from training.dataset import Dataset, build_dataset
from training.metrics import PROBABILITY, RANKING, with_intervals
from training.models import predict
from training.train import TrainConfig

RULE_METRICS = {name: RANKING[name] for name in ("pr_auc", "precision_at_5")}
"""A rule ranks, and coarsely: the order at the top is all it claims."""
ORACLE = "oracle (the true probability)"


def evaluate(settings: Settings, config: TrainConfig) -> dict[str, Any]:
    """Metrics of the champion, of the baselines and, on simulated data, of the oracle.

    Writes `reports/evaluation.json` and logs the champion's test metrics to its MLflow run. The
    test period is read here and nowhere else. Where nothing changed, the kept report is returned.

    Returns:
        `{"inputs", "champion", "family", "version", "test": {...}, "models": {name: {metric:
        {"value", "low", "high"}}}, "achievable": {metric: share} | None}`.

    Raises:
        NextbuyError: there is no champion yet.
    """
    found = registry.client(settings)
    version = registry.champion(found)
    if version is None:
        raise NextbuyError("There is no champion yet. Make one with: nextbuy train")
    dataset = build_dataset(settings, config.split)
    truth = manifest(settings.truth)
    inputs = fingerprint(
        dataset.digest,
        version.version,
        version.run_id,
        truth.fingerprint if truth else None,
        Path(__file__).parent,
    )
    report_file = settings.reports / "evaluation.json"
    if report_file.exists():
        kept: dict[str, Any] = json.loads(report_file.read_text())
        if kept.get("inputs") == inputs:
            return kept

    booster, contract = registry.load(f"models:/{REGISTERED_MODEL}@{CHAMPION}")
    test, labels = dataset.part("test"), dataset.labels("test")
    users = np.asarray(test["user_id"].to_numpy(zero_copy_only=False), object)
    champion = f"champion ({contract.family})"
    both = {**RANKING, **PROBABILITY}
    logistic = logistic_scores(contract, dataset.part("train"), dataset.labels("train"), test)
    scored = {
        champion: (predict(booster, contract.matrix(test)), both),
        "logistic regression": (logistic, both),
        **{name: (score, RULE_METRICS) for name, score in rule_scores(test).items()},
    }
    oracle = _oracle(settings, test) if truth else None
    if oracle is not None:
        scored = {ORACLE: (oracle, both), **scored}
    models = {
        name: with_intervals(labels, score, users, metrics)
        for name, (score, metrics) in scored.items()
    }
    report = {
        "inputs": inputs,
        "champion": champion,
        "family": contract.family,
        "version": str(version.version),
        "test": _period(dataset, labels),
        "models": models,
        "achievable": _achievable(models, champion, labels) if oracle is not None else None,
    }
    settings.reports.mkdir(parents=True, exist_ok=True)
    report_file.write_text(json.dumps(report, indent=1))
    with mlflow.start_run(run_id=version.run_id):
        mlflow.log_metrics({f"test_{k}": v["value"] for k, v in models[champion].items()})
        mlflow.log_dict(report, "evaluation.json")
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


def _oracle(settings: Settings, test: pa.Table) -> NDArray[np.float64]:
    """The simulator's true probability of each test row; only evaluation may ask for it."""
    with duckdb_engine(settings) as engine:
        engine.register("test", test.select(["user_id", "item_id", "event_timestamp"]))
        rows = engine.sql(
            "SELECT truth.probability FROM test "
            f"LEFT JOIN read_parquet('{files(settings.truth)}') truth "
            "USING (user_id, item_id, event_timestamp) "
            "ORDER BY user_id, item_id, event_timestamp"  # as the dataset is sorted
        ).to_arrow_table()
    probability = rows["probability"].to_numpy()
    missing = int(np.isnan(probability).sum())
    if missing or len(probability) != test.num_rows:
        raise NextbuyError(
            f"{missing} of {test.num_rows} test rows have no true probability in {settings.truth}: "
            "the truth belongs to other events. Simulate and ingest again: nextbuy simulate"
        )
    return np.asarray(probability, np.float64)


def _achievable(
    models: dict[str, Any], champion: str, labels: NDArray[np.int8]
) -> dict[str, float]:
    """(model - base) / (oracle - base): how much of what can be known the model knows."""
    base = float(labels.mean())
    entropy = float(-(base * np.log(base) + (1 - base) * np.log(1 - base)))
    floors = {"pr_auc": base, "log_loss": entropy}
    return {
        metric: (models[champion][metric]["value"] - floor)
        / (models[ORACLE][metric]["value"] - floor)
        for metric, floor in floors.items()
    }
