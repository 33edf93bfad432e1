"""Fits both families, logs every run, and lets the better one on validation be champion."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import average_precision_score, log_loss

from nextbuy.contract import CHAMPION, FEATURE_SERVICE, REGISTERED_MODEL
from nextbuy.settings import Settings
from nextbuy.storage import fingerprint
from training import registry
from training.dataset import build_dataset
from training.models import FAMILIES, ModelConfig, contract_for, fit, predict
from training.splits import SplitConfig


class TrainConfig(BaseModel):
    """How to split and how to fit; `nextbuy train --config FILE` reads it from YAML."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()


class Trained(BaseModel):
    """What a training gave."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    """Of the champion in the MLflow registry."""
    family: str
    validation_pr_auc: dict[str, float]
    """Family -> PR-AUC on the validation split; empty when nothing had to be fitted."""
    rows: int
    positives: int
    features: int
    fitted: bool
    """False: the champion had been fitted on just this, so nothing was done."""


def train(settings: Settings, config: TrainConfig, say: Callable[[str], None]) -> Trained:
    """Fit XGBoost and LightGBM on the training set; the better one becomes champion.

    A champion that was fitted on the same data with the same code and settings is kept.

    Raises:
        NextbuyError: a table is missing, a split has one class, or MLflow does not answer.
    """
    found = registry.client(settings)
    dataset = build_dataset(settings, config.split)
    table, labels = dataset.part("train"), dataset.labels("train")
    inputs = fingerprint(dataset.digest, config.model.model_dump(), Path(__file__).parent)
    current = registry.champion(found)
    summary = {
        "rows": dataset.table.num_rows,
        "positives": int(np.sum(dataset.table["label"].to_numpy())),
        "features": len(dataset.features),
    }
    if current is not None and current.tags.get("inputs") == inputs:
        family = current.tags["family"]
        return Trained(
            version=str(current.version),
            family=family,
            validation_pr_auc={},
            fitted=False,
            **summary,
        )

    scores: dict[str, float] = {}
    versions: dict[str, str] = {}
    for family in FAMILIES:
        contract = contract_for(table, dataset.features, FEATURE_SERVICE, family, config.model)
        say(f"fitting {family} on {table.num_rows:,} rows × {len(dataset.features)} features")
        encoded = contract.matrix(dataset.part("validation"))
        truth = dataset.labels("validation")
        with mlflow.start_run(run_name=family) as run:
            mlflow.log_params({"family": family, **config.model.model_dump()})
            mlflow.log_params({f"split_{k}": v for k, v in config.split.model_dump().items()})
            mlflow.set_tags(
                {
                    "dataset": dataset.digest,
                    "feature_service": FEATURE_SERVICE,
                    "inputs": inputs,
                    **{
                        f"period_{name}": f"{start.isoformat()}/{end.isoformat()}"
                        for name, (start, end) in dataset.splits.periods().items()
                    },
                }
            )
            booster = fit(
                contract, (contract.matrix(table), labels), (encoded, truth), config.model
            )
            probability = predict(booster, encoded)
            scores[family] = float(average_precision_score(truth, probability))
            mlflow.log_metrics(
                {
                    "validation_pr_auc": scores[family],
                    "validation_log_loss": float(log_loss(truth, probability, labels=[0, 1])),
                    "train_rows": float(table.num_rows),
                    "train_positives": float(labels.sum()),
                }
            )
            versions[family] = registry.log_booster(booster, contract)
        found.set_model_version_tag(REGISTERED_MODEL, versions[family], "inputs", inputs)
        found.set_model_version_tag(REGISTERED_MODEL, versions[family], "family", family)
        say(f"{family}: validation PR-AUC {scores[family]:.4f} (run {run.info.run_id})")
    best = max(FAMILIES, key=lambda family: scores[family])
    found.set_registered_model_alias(REGISTERED_MODEL, CHAMPION, versions[best])
    return Trained(
        version=versions[best],
        family=best,
        validation_pr_auc=scores,
        fitted=True,
        **summary,
    )
