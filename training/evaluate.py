"""A model on the untouched last period, beside the baselines and the best possible score."""

import json
from dataclasses import dataclass
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa

from nextbuy import atomic
from nextbuy.connection import duckdb_connection
from nextbuy.contract import CHALLENGER, CHAMPION
from nextbuy.errors import NextbuyError
from nextbuy.models import registry
from nextbuy.models.booster import Booster
from nextbuy.models.economics import profit
from nextbuy.settings import Settings
from nextbuy.shop import DEFAULTS, ShopSettings
from nextbuy.shop_clock import ShopClock, shop_clock
from nextbuy.sql import read_parquet
from nextbuy.versioned_table import files, fingerprint, manifest
from training.baselines import logistic_scores, rule_scores, time_and_position_scores
from training.breakdowns import session_level, slices
from training.config import TrainConfig
from training.dataset import Dataset, sample_of
from training.early_session import value_at_prefix
from training.metrics import (
    PROBABILITY,
    RANKING,
    Interval,
    Labels,
    Sample,
    Vector,
    paired_difference,
    session_ranking,
    with_intervals,
)
from training.model_card import TEMPLATE, write_card
from training.train import CODE

RULE_METRICS = {name: RANKING[name] for name in ("pr_auc", "precision_at_5")}
"""A rule ranks, and coarsely: the order at the top is all it claims."""
SLICE_METRICS = {
    "pr_auc": RANKING["pr_auc"],
    "roc_auc": RANKING["roc_auc"],
    "calibration_error": PROBABILITY["calibration_error"],
}
ORACLE = "oracle (the true probability)"

Metrics = dict[str, dict[str, Interval]]
"""Name of a score -> metric -> interval."""


def evaluate(
    settings: Settings, dataset: Dataset, config: TrainConfig, alias: str = CHAMPION
) -> dict[str, Any]:
    """Metrics of a model, of the baselines and, on simulated data, of the oracle.

    Writes `reports/evaluation.json` (of a challenger: `evaluation-challenger.json`) and a model
    card beside it, and logs both to the model's MLflow run with the plots. The test period is read
    here and by `nextbuy promote`, nowhere else. Where nothing changed, the kept report is returned.

    Returns:
        `{"inputs", "champion", "family", "version", "settings": {"question", "model", "differing"},
        "test": {...}, "models": {name: {metric:
        {"value", "low", "high"}}}, "achievable": {metric: share} | None, "over_best_baseline":
        {"baseline", "ratio", "difference"}, "slices": {name: {"rows", "positives", "metrics"}},
        "prefix": {number of events: {...}} | None, "sessions": {...}, "decisions": {...}}`;
        "champion" names the model's own row in "models", "differing" what the model was trained
        with other than what these rows are labelled with.

    Raises:
        NextbuyError: no model has this alias.
    """
    client = registry.client(settings)
    with registry.reachable(settings):
        waiting = alias == CHALLENGER
        version = registry.waiting(client) if waiting else registry.version_of(client, alias)
    if version is None:
        nothing = f"There is no {alias} yet. Make one with: nextbuy train"
        raise NextbuyError(registry.NO_CHALLENGER if waiting else nothing)
    truth = manifest(settings.truth)
    inputs = fingerprint(
        dataset.digest,
        version.version,
        version.run_id,
        truth.fingerprint if truth else None,
        config.offer.model_dump(),
        *CODE,
        TEMPLATE,
    )
    suffix = "" if alias == CHAMPION else f"-{CHALLENGER}"
    report_file = settings.reports / f"evaluation{suffix}.json"
    if report_file.exists():
        kept: dict[str, Any] = json.loads(report_file.read_text())
        if kept.get("inputs") == inputs:
            return kept

    model = registry.load_version(settings, version)
    scores = _scores(settings, dataset, model.booster, f"{alias} ({model.booster.contract.family})")
    report = {
        "inputs": inputs,
        "champion": scores.model,
        "family": model.booster.contract.family,
        "version": model.version,
        "settings": _settings(model.booster.contract.shop, dataset.shop),
        **_report(settings, dataset, model.booster, scores, config),
    }
    card = write_card(
        settings.reports / f"model_card{suffix}",
        report,
        scores.sample.labels,
        scores.probabilities,
        model.booster,
        dataset.part("test"),
    )
    with registry.reachable(settings), mlflow.start_run(run_id=version.run_id):
        measured = report["models"][scores.model]
        mlflow.log_metrics({f"test_{name}": v["value"] for name, v in measured.items()})
        mlflow.log_dict(report, "evaluation.json")
        mlflow.log_artifacts(str(card))
    atomic.write_text(report_file, json.dumps(report, indent=1))
    return report


def _settings(trained: ShopSettings | None, tables: ShopSettings) -> dict[str, Any]:
    """What the model's probabilities mean, and how that differs from the test rows' labels."""
    shop = trained or tables
    return {
        "question": shop.question,
        "model": trained.model_dump() if trained else None,
        "differing": shop.compared_with(tables),
    }


@dataclass(frozen=True)
class _Scores:
    """The test rows, scored in every way."""

    sample: Sample
    model: str
    """Name of the model among the probabilities."""
    probabilities: dict[str, Vector]
    """Of the oracle, where there is one, of the model and of the fitted baselines."""
    rules: dict[str, Vector]

    @property
    def baselines(self) -> dict[str, Vector]:
        """Everything but the model and the oracle."""
        every = {**self.probabilities, **self.rules}
        return {name: s for name, s in every.items() if name not in (ORACLE, self.model)}


def _scores(settings: Settings, dataset: Dataset, booster: Booster, name: str) -> _Scores:
    test, train, labels = dataset.part("test"), dataset.part("train"), dataset.labels("train")
    contract = booster.contract
    oracle = true_probability(settings, test, dataset.shop)
    return _Scores(
        sample_of(test),
        name,
        {
            **({ORACLE: oracle} if oracle is not None else {}),
            name: booster.score(test),
            "logistic regression": logistic_scores(contract, train, labels, test),
            "time and position": time_and_position_scores(contract, train, labels, test),
        },
        rule_scores(test),
    )


def _report(
    settings: Settings, dataset: Dataset, booster: Booster, scores: _Scores, config: TrainConfig
) -> dict[str, Any]:
    test, sample, labels = dataset.part("test"), scores.sample, scores.sample.labels
    probability = scores.probabilities[scores.model]
    models = _metrics(scores)
    return {
        "test": _period(dataset, labels),
        "models": models,
        "achievable": _achievable(models, scores.model, labels) if ORACLE in models else None,
        "over_best_baseline": _over_best_baseline(models, scores),
        "slices": _slices(test, sample, probability, shop_clock(dataset.shop.time_zone)),
        "prefix": value_at_prefix(settings, booster, test, probability),
        "sessions": session_level(
            sample, {**scores.baselines, scores.model: probability}, scores.model
        ),
        "decisions": profit(labels, probability, config.offer),
    }


def _period(dataset: Dataset, labels: Labels) -> dict[str, Any]:
    start, end = dataset.splits.test
    return {
        "from": start.isoformat(),
        "to": end.isoformat(),
        "rows": len(labels),
        "positives": int(labels.sum()),
        "base_rate": float(labels.mean()),
    }


def _metrics(scores: _Scores) -> Metrics:
    sample = scores.sample
    probabilities = {
        name: with_intervals(sample.labels, score, sample.users, {**RANKING, **PROBABILITY})
        | session_ranking(sample, score)
        for name, score in scores.probabilities.items()
    }
    rules = {
        name: with_intervals(sample.labels, score, sample.users, RULE_METRICS)
        for name, score in scores.rules.items()
    }
    return {**probabilities, **rules}


def _achievable(models: Metrics, model: str, labels: Labels) -> dict[str, float]:
    """(model - base) / (oracle - base): how much of what can be known the model knows."""
    base = float(labels.mean())
    entropy = float(-(base * np.log(base) + (1 - base) * np.log(1 - base)))
    floors = {"pr_auc": base, "log_loss": entropy}
    return {
        metric: (models[model][metric]["value"] - floor) / (models[ORACLE][metric]["value"] - floor)
        for metric, floor in floors.items()
    }


def _over_best_baseline(models: Metrics, scores: _Scores) -> dict[str, Any]:
    baselines = scores.baselines
    best = max(baselines, key=lambda name: models[name]["pr_auc"]["value"])
    probability = scores.probabilities[scores.model]
    gain = paired_difference(scores.sample, probability, baselines[best], RANKING["pr_auc"])
    return {
        "baseline": best,
        "ratio": models[scores.model]["pr_auc"]["value"] / models[best]["pr_auc"]["value"],
        "difference": gain,
    }


def _slices(
    test: pa.Table, sample: Sample, probability: Vector, clock: ShopClock
) -> dict[str, Any]:
    return {
        name: {
            "rows": int(rows.sum()),
            "positives": int(sample.labels[rows].sum()),
            "metrics": with_intervals(
                sample.labels[rows], probability[rows], sample.users[rows], SLICE_METRICS, 40
            ),
        }
        for name, rows in slices(test, sample.labels, clock)
    }


def true_probability(settings: Settings, test: pa.Table, shop: ShopSettings) -> Vector | None:
    """The simulator's, of the test rows in their order, shape (rows,).

    None without a simulation, or where it looked further or less far ahead than the labels. Only
    evaluation and promotion may read it.

    Raises:
        NextbuyError: the truth belongs to another log.
    """
    truth = manifest(settings.truth)
    horizon_days = truth and truth.info.get("horizon_days", DEFAULTS.labels.horizon_days)
    if horizon_days != shop.labels.horizon_days:
        return None
    rows = truth_of(settings, test, "probability")
    probability = rows["probability"].to_numpy()
    missing = int(np.isnan(probability).sum())
    if missing or len(probability) != test.num_rows:
        raise NextbuyError(
            f"{missing} of {test.num_rows} test rows have no true probability in {settings.truth}: "
            "the truth belongs to other events. Simulate and ingest again: nextbuy simulate"
        )
    return np.asarray(probability, np.float64)


def truth_of(settings: Settings, rows: pa.Table, *columns: str) -> pa.Table:
    """Columns of the truth table for these rows, in their order; null where it has no such row."""
    keys = rows.select(["user_id", "item_id", "event_timestamp"])
    keys = keys.append_column("row_number", pa.array(range(rows.num_rows), pa.int64()))
    chosen = ", ".join(f"truth.{name}" for name in columns)
    with duckdb_connection(settings) as connection:
        connection.register("keys", keys)
        return connection.sql(
            f"SELECT {chosen} FROM keys LEFT JOIN {read_parquet(files(settings.truth))} truth "
            "USING (user_id, item_id, event_timestamp) ORDER BY row_number"
        ).to_arrow_table()
