"""The two model families, fitted on the same encoded matrix with early stopping."""

from collections.abc import Callable
from typing import Any, Literal

import lightgbm as lgb
import numpy as np
import pyarrow as pa
import xgboost as xgb
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from nextbuy.contract import ModelContract
from nextbuy.models.booster import Booster

Family = Literal["xgboost", "lightgbm"]
FAMILIES: tuple[Family, ...] = ("xgboost", "lightgbm")
Matrix = NDArray[np.float32]
Vector = NDArray[np.float64]
Report = Callable[[int, float], None]
"""(trees so far, validation log-loss)."""


class ModelConfig(BaseModel):
    """What both families share; their words differ, the meaning does not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 7
    rounds: int = Field(default=3_000, ge=1)
    """Trees at most; the validation split decides how many."""
    patience: int = Field(default=100, ge=1)
    """Rounds without a better validation log-loss after which fitting stops."""
    learning_rate: float = Field(default=0.03, gt=0)
    depth: int = Field(default=3, ge=1)
    min_child_rows: int = Field(default=40, ge=1)
    row_share: float = Field(default=0.8, gt=0, le=1)
    column_share: float = Field(default=0.5, gt=0, le=1)
    l2: float = Field(default=5.0, ge=0)
    max_categories: int = Field(default=200, ge=1)
    """Values of a categorical feature that get a code, the most frequent first."""
    threads: int = Field(default=2, ge=1)
    """Part of the result: sums in another order differ in the last digit."""


def contract_for(
    table: pa.Table, features: tuple[str, ...], service: str, family: Family, config: ModelConfig
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


def fit(
    contract: ModelContract,
    train: tuple[Matrix, NDArray[np.int8]],
    validation: tuple[Matrix, NDArray[np.int8]],
    config: ModelConfig,
    report: Report | None = None,
) -> Booster:
    """Fit one family; the booster's raw prediction is the probability of label 1.

    Classes are not reweighted: that would spoil the calibration.

    Args:
        contract: names the family, the columns and which of them are categorical.
        train: matrix of shape (rows, features) and labels of shape (rows,).
        validation: the same for the time-later split that stops the fit.
        config: parameters.
        report: told the validation log-loss after each tree; what it raises ends the fit.
    """
    if contract.family == "xgboost":
        return _fit_xgboost(contract, train, validation, config, report)
    return _fit_lightgbm(contract, train, validation, config, report)


def predict(booster: Booster, matrix: Matrix) -> Vector:
    """The booster's own probabilities, of shape (rows,)."""
    if isinstance(booster, lgb.Booster):
        return np.asarray(booster.predict(matrix), np.float64)
    data = xgb.DMatrix(matrix, feature_types=booster.feature_types, enable_categorical=True)
    return np.asarray(booster.predict(data), np.float64)


def score(booster: Booster, contract: ModelContract, table: pa.Table) -> Vector:
    """The model's probabilities: encoded, predicted and calibrated, of shape (rows,)."""
    return contract.calibration.apply(predict(booster, contract.matrix(table)))


def contributions(booster: Booster, contract: ModelContract, matrix: Matrix) -> Vector:
    """SHAP values on the calibrated log-odds, of shape (rows, features)."""
    if isinstance(booster, lgb.Booster):
        found = np.asarray(booster.predict(matrix, pred_contrib=True), np.float64)
    else:
        data = xgb.DMatrix(matrix, feature_types=booster.feature_types, enable_categorical=True)
        found = np.asarray(booster.predict(data, pred_contribs=True), np.float64)
    return found[:, :-1] * contract.calibration.slope  # the last column is the base value


def _fit_xgboost(
    contract: ModelContract,
    train: Any,
    validation: Any,
    config: ModelConfig,
    report: Report | None,
) -> xgb.Booster:
    kinds = ["c" if name in contract.categories else "q" for name in contract.features]

    def data(part: tuple[Matrix, NDArray[np.int8]]) -> xgb.QuantileDMatrix:
        return xgb.QuantileDMatrix(
            part[0],
            part[1],
            feature_types=kinds,
            enable_categorical=True,
            ref=None if part is train else fitted,
        )

    fitted = data(train)
    booster = xgb.train(
        {
            "objective": "binary:logistic",
            "eval_metric": "logloss",
            "tree_method": "hist",
            "eta": config.learning_rate,
            "max_depth": config.depth,
            # In log-loss a row weighs p(1-p); at 5 % positives that is about a twentieth.
            "min_child_weight": config.min_child_rows / 20,
            "subsample": config.row_share,
            "colsample_bytree": config.column_share,
            "lambda": config.l2,
            "seed": config.seed,
            "nthread": config.threads,
        },
        fitted,
        num_boost_round=config.rounds,
        evals=[(data(validation), "validation")],
        early_stopping_rounds=config.patience,
        verbose_eval=False,
        callbacks=[_Told(report)] if report else None,
    )
    return booster[: booster.best_iteration + 1]


def _fit_lightgbm(
    contract: ModelContract,
    train: Any,
    validation: Any,
    config: ModelConfig,
    report: Report | None,
) -> lgb.Booster:
    columns = [i for i, name in enumerate(contract.features) if name in contract.categories]
    fitted = lgb.Dataset(train[0], train[1], categorical_feature=columns, free_raw_data=False)
    held = fitted.create_valid(validation[0], validation[1])
    callbacks: list[Any] = [lgb.early_stopping(config.patience, verbose=False)]
    if report:
        callbacks.append(lambda now: report(now.iteration, now.evaluation_result_list[0][2]))
    booster = lgb.train(
        {
            "objective": "binary",
            "metric": "binary_logloss",
            "learning_rate": config.learning_rate,
            "max_depth": config.depth,
            "num_leaves": 2**config.depth - 1,
            "min_data_in_leaf": config.min_child_rows,
            "bagging_fraction": config.row_share,
            "bagging_freq": 1,
            "feature_fraction": config.column_share,
            "lambda_l2": config.l2,
            "seed": config.seed,
            "deterministic": True,
            "force_row_wise": True,
            "num_threads": config.threads,
            "verbosity": -1,
        },
        fitted,
        num_boost_round=config.rounds,
        valid_sets=[held],
        callbacks=callbacks,
    )
    return lgb.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))


class _Told(xgb.callback.TrainingCallback):
    def __init__(self, report: Report) -> None:
        self._report = report

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        self._report(epoch, evals_log["validation"]["logloss"][-1])
        return False
