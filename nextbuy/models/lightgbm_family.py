"""The family `lightgbm`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nextbuy.contract import ModelContract
from nextbuy.models.family import Labelled, Matrix, ModelConfig, Report, check_columns

if TYPE_CHECKING:
    import lightgbm


def fit(
    contract: ModelContract,
    train: Labelled,
    validation: Labelled,
    config: ModelConfig,
    report: Report | None,
) -> "lightgbm.Booster":
    """Fit with early stopping; see `nextbuy.models.family.Family.fit`."""
    import lightgbm

    columns = [i for i, name in enumerate(contract.features) if name in contract.categories]
    first = lightgbm.Dataset(*train, categorical_feature=columns, free_raw_data=False)
    callbacks: list[Any] = [lightgbm.early_stopping(config.patience, verbose=False)]
    if report:
        callbacks.append(lambda now: report(now.iteration, now.evaluation_result_list[0][2]))
    booster = lightgbm.train(
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
        first,
        num_boost_round=config.rounds,
        valid_sets=[first.create_valid(*validation)],
        callbacks=callbacks,
    )
    return lightgbm.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))


def log(booster: "lightgbm.Booster", **options: Any) -> Any:
    """Log with MLflow's own flavor."""
    import mlflow.lightgbm

    return mlflow.lightgbm.log_model(booster, **options)


def load(file: Path, contract: ModelContract, threads: int) -> "lightgbm.Booster":
    """Load; LightGBM takes the threads with each call."""
    import lightgbm

    booster = lightgbm.Booster(model_file=str(file))
    # LightGBM replaces what JSON would trip over, so its names are not compared.
    check_columns(contract, booster.num_feature(), None)
    return booster


def predict(booster: "lightgbm.Booster", matrix: Matrix, threads: int) -> NDArray[Any]:
    """Probabilities, shape (rows,)."""
    return np.asarray(booster.predict(matrix, num_threads=threads))


def explain(booster: "lightgbm.Booster", matrix: Matrix, threads: int) -> NDArray[Any]:
    """SHAP values, shape (rows, features), by TreeSHAP."""
    values = np.asarray(booster.predict(matrix, pred_contrib=True, num_threads=threads))
    return values[:, :-1]  # the last column is the base value
