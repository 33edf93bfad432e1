"""Fits both families and logs every run; the better one on validation becomes the challenger."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import average_precision_score, log_loss

from nextbuy.contract import CHALLENGER, CHAMPION, FEATURE_SERVICE, ModelContract
from nextbuy.models import registry
from nextbuy.models.booster import Booster
from nextbuy.models.calibration import calibrate
from nextbuy.settings import Settings
from nextbuy.versioned_table import fingerprint
from training.boosting import FAMILIES, Family, ModelConfig, contract_for, fit, predict, score
from training.config import TrainConfig
from training.dataset import Dataset


class Trained(BaseModel):
    """What a training gave."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    """Of the better model in the MLflow registry."""
    family: str
    is_champion: bool
    """The first model of a registry serves at once; later ones wait for `nextbuy promote`."""
    validation_pr_auc: dict[str, float]
    """Family -> PR-AUC on the validation split; empty when nothing had to be fitted."""
    rows: int
    positives: int
    features: int
    fitted: bool
    """False: challenger or champion had been fitted on just this, so nothing was done."""


def train(
    settings: Settings, dataset: Dataset, config: TrainConfig, say: Callable[[str], None]
) -> Trained:
    """Fit XGBoost and LightGBM on the training set; the better one becomes challenger.

    A model that was fitted on the same data with the same code and settings is kept. Where there
    is no champion yet, the challenger becomes it.

    Raises:
        NextbuyError: MLflow does not answer.
    """
    found = registry.client(settings)
    inputs = fingerprint(dataset.digest, config.model.model_dump(), Path(__file__).parent)
    summary = {
        "rows": dataset.table.num_rows,
        "positives": int(np.sum(dataset.table["label"].to_numpy())),
        "features": len(dataset.features),
    }
    with registry.reachable(settings):
        champion = registry.behind(found, CHAMPION)
        for known, serves in ((registry.behind(found, CHALLENGER), False), (champion, True)):
            if known is not None and known.tags.get("inputs") == inputs:
                return Trained(
                    version=str(known.version),
                    family=known.tags["family"],
                    is_champion=serves or champion is None or champion.version == known.version,
                    validation_pr_auc={},
                    fitted=False,
                    **summary,
                )
        scores: dict[str, float] = {}
        versions: dict[str, str] = {}
        for family in FAMILIES:
            say(
                f"fitting {family} on {dataset.part('train').num_rows:,} rows × "
                f"{len(dataset.features)} features"
            )
            with mlflow.start_run(run_name=family) as run:
                _log_origin(settings, dataset, config, inputs)
                booster, contract = fit_calibrated(dataset, family, config.model)
                measured = _validation_metrics(dataset, booster, contract)
                mlflow.log_params({"family": family, **config.model.model_dump()})
                mlflow.log_params({f"calibration_{k}": v for k, v in contract.calibration})
                mlflow.log_metrics(measured)
                versions[family] = registry.log_booster(booster, contract)
            registry.tag(found, versions[family], inputs=inputs, family=family)
            scores[family] = measured["validation_pr_auc"]
            say(f"{family}: validation PR-AUC {scores[family]:.4f} (run {run.info.run_id})")
        best = max(FAMILIES, key=lambda family: scores[family])
        registry.point(found, CHALLENGER, versions[best])
        if champion is None:
            registry.point(found, CHAMPION, versions[best])
    return Trained(
        version=versions[best],
        family=best,
        is_champion=champion is None,
        validation_pr_auc=scores,
        fitted=True,
        **summary,
    )


def fit_calibrated(
    dataset: Dataset, family: Family, config: ModelConfig
) -> tuple[Booster, ModelContract]:
    """Fit on the training split, stop on the validation split, calibrate on the calibration split.

    The test split is not touched.
    """
    train = dataset.part("train")
    contract = contract_for(train, dataset.features, FEATURE_SERVICE, family, config)
    booster = fit(
        contract,
        (contract.matrix(train), dataset.labels("train")),
        (contract.matrix(dataset.part("validation")), dataset.labels("validation")),
        config,
    )
    later = predict(booster, contract.matrix(dataset.part("calibration")))
    found = calibrate(dataset.labels("calibration"), later)
    return booster, contract.model_copy(update={"calibration": found})


def _log_origin(settings: Settings, dataset: Dataset, config: TrainConfig, inputs: str) -> None:
    """Whatever it takes to make this model again."""
    mlflow.log_params({f"split_{k}": v for k, v in config.split.model_dump().items()})
    mlflow.set_tags(
        {
            "dataset": dataset.digest,
            "feature_service": FEATURE_SERVICE,
            "feature_registry": dataset.registry,
            "code": fingerprint(Path(__file__).parent, settings.feature_repo / "definitions.py"),
            "inputs": inputs,
            **{
                f"period_{name}": f"{start.isoformat()}/{end.isoformat()}"
                for name, (start, end) in dataset.splits.periods().items()
            },
        }
    )


def _validation_metrics(
    dataset: Dataset, booster: Booster, contract: ModelContract
) -> dict[str, float]:
    truth = dataset.labels("validation")
    probability = score(booster, contract, dataset.part("validation"))
    return {
        "validation_pr_auc": float(average_precision_score(truth, probability)),
        "validation_log_loss": float(log_loss(truth, probability, labels=[0, 1])),
        "train_rows": float(dataset.part("train").num_rows),
        "train_positives": float(dataset.labels("train").sum()),
    }
