"""Fits every family and logs each run; the best one on validation becomes the challenger."""

from collections.abc import Callable
from pathlib import Path

import mlflow
import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import average_precision_score, log_loss

from nextbuy.contract import CHALLENGER, CHAMPION, FEATURE_SERVICE, ModelContract
from nextbuy.models import registry
from nextbuy.models.booster import Booster, fit_booster
from nextbuy.models.calibration import calibrate
from nextbuy.models.families import FAMILIES
from nextbuy.models.family import ModelConfig
from nextbuy.settings import Settings
from nextbuy.shop import ShopSettings
from nextbuy.versioned_table import fingerprint
from training.config import TrainConfig
from training.dataset import Dataset

CODE = (Path(__file__).parent, Path(registry.__file__).parent)
"""What a model depends on beside its data and settings."""


class Trained(BaseModel):
    """The result of a training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    """Of the best model, in the MLflow registry."""
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
    """Fit every family on the training set; the best model becomes challenger.

    A model that was fitted on the same data with the same code and settings is kept. Where there
    is no champion yet, the challenger becomes it.

    Raises:
        NextbuyError: MLflow does not answer.
    """
    client = registry.client(settings)
    inputs = fingerprint(
        dataset.digest, dataset.shop.model_dump(), config.model.model_dump(), *CODE
    )
    summary = {
        "rows": dataset.table.num_rows,
        "positives": int(np.sum(dataset.table["label"].to_numpy())),
        "features": len(dataset.features),
    }
    with registry.reachable(settings):
        champion = registry.version_of(client, CHAMPION)
        for known, serves in ((registry.version_of(client, CHALLENGER), False), (champion, True)):
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
                booster = fit_calibrated(dataset, family, config.model)
                measured = _validation_metrics(dataset, booster)
                mlflow.log_params({"family": family, **config.model.model_dump()})
                mlflow.log_params({f"calibration_{k}": v for k, v in booster.contract.calibration})
                mlflow.log_metrics(measured)
                versions[family] = registry.log_booster(booster)
            registry.tag(
                client,
                versions[family],
                inputs=inputs,
                family=family,
                **{name: str(value) for name, value in shop_parameters(dataset.shop).items()},
            )
            scores[family] = measured["validation_pr_auc"]
            say(f"{family}: validation PR-AUC {scores[family]:.4f} (run {run.info.run_id})")
        best = max(FAMILIES, key=lambda family: scores[family])
        registry.set_alias(client, CHALLENGER, versions[best])
        if champion is None:
            registry.set_alias(client, CHAMPION, versions[best])
    return Trained(
        version=versions[best],
        family=best,
        is_champion=champion is None,
        validation_pr_auc=scores,
        fitted=True,
        **summary,
    )


def contract_for(
    table: pa.Table, features: tuple[str, ...], service: str, family: str, config: ModelConfig
) -> ModelContract:
    """Fix the order of the columns and the codes of the categories, from the training rows."""
    categories = {}
    for name in features:
        if pa.types.is_string(table.schema.field(name).type):
            counted = table[name].drop_null().value_counts().to_pylist()
            counted.sort(key=lambda c: (-c["counts"], c["values"]))
            categories[name] = tuple(c["values"] for c in counted[: config.max_categories])
    return ModelContract(
        feature_service=service, features=features, categories=categories, family=family
    )


def fit_calibrated(dataset: Dataset, family: str, config: ModelConfig) -> Booster:
    """Fit on the training split, stop on the validation split, calibrate on the calibration split.

    The test split is not touched.
    """
    train = dataset.part("train")
    contract = contract_for(train, dataset.features, FEATURE_SERVICE, family, config)
    contract = contract.model_copy(update={"shop": dataset.shop})
    booster = fit_booster(
        contract,
        (contract.matrix(train), dataset.labels("train")),
        (contract.matrix(dataset.part("validation")), dataset.labels("validation")),
        config,
    )
    later = booster.score(dataset.part("calibration"))
    return booster.calibrated(calibrate(dataset.labels("calibration"), later))


def shop_parameters(shop: ShopSettings) -> dict[str, str | int]:
    """What a probability means, as MLflow shows it: parameters of a run, tags of a version."""
    return {
        "horizon_days": shop.labels.horizon_days,
        "session_gap_minutes": shop.sessions.gap_minutes,
        "time_zone": shop.time_zone,
    }


def _log_origin(settings: Settings, dataset: Dataset, config: TrainConfig, inputs: str) -> None:
    """Log what it takes to make this model again."""
    mlflow.log_params({f"split_{k}": v for k, v in config.split.model_dump().items()})
    mlflow.log_params(shop_parameters(dataset.shop))
    mlflow.set_tags(
        {
            "dataset": dataset.digest,
            "feature_service": FEATURE_SERVICE,
            "feature_registry": dataset.registry,
            "code": fingerprint(*CODE, settings.feature_repo / "definitions.py"),
            "inputs": inputs,
            **{
                f"period_{name}": f"{start.isoformat()}/{end.isoformat()}"
                for name, (start, end) in dataset.splits.periods().items()
            },
        }
    )


def _validation_metrics(dataset: Dataset, booster: Booster) -> dict[str, float]:
    truth = dataset.labels("validation")
    probability = booster.score(dataset.part("validation"))
    return {
        "validation_pr_auc": float(average_precision_score(truth, probability)),
        "validation_log_loss": float(log_loss(truth, probability, labels=[0, 1])),
        "train_rows": float(dataset.part("train").num_rows),
        "train_positives": float(dataset.labels("train").sum()),
    }
