"""The model that serves, as the registry names it: its contract, its scores, its metrics."""

from typing import Any, NamedTuple

import lightgbm as lgb
import mlflow
import numpy as np
import pyarrow as pa
import xgboost as xgb
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from numpy.typing import NDArray

import nextbuy.telemetry  # noqa: F401  # before MLflow looks at the environment
from nextbuy.contract import CHAMPION, REGISTERED_MODEL, ModelContract
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings


class Named(NamedTuple):
    """A registered version behind an alias."""

    version: str
    contract: ModelContract
    booster: xgb.Booster | lgb.Booster
    metrics: dict[str, float]

    def score(self, rows: pa.Table) -> NDArray[np.float64]:
        """Calibrated probabilities, shape (rows,), for columns named as the contract's features."""
        matrix = self.contract.matrix(rows)
        if isinstance(self.booster, lgb.Booster):
            found = self.booster.predict(matrix)
        else:
            kinds = self.booster.feature_types
            data = xgb.DMatrix(matrix, feature_types=kinds, enable_categorical=True)
            found = self.booster.predict(data)
        return self.contract.calibration.apply(np.asarray(found, np.float64))


def named(settings: Settings, alias: str = CHAMPION) -> Named:
    """The version behind an alias.

    Raises:
        NextbuyError: nothing was trained, MLflow does not answer, or no version has the alias.
    """
    if settings.mlflow_tracking_uri is None and not (settings.data / "mlflow").is_dir():
        raise NextbuyError("There is no model yet. Make one with: nextbuy train")
    mlflow.set_tracking_uri(settings.tracking_uri)
    client = MlflowClient()
    try:
        version = client.get_model_version_by_alias(REGISTERED_MODEL, alias)
        metrics = client.get_run(str(version.run_id)).data.metrics
        uri = f"models:/{REGISTERED_MODEL}/{version.version}"
        contract = ModelContract.model_validate(
            (mlflow.models.get_model_info(uri).metadata or {})["contract"]
        )
        flavor: Any = mlflow.lightgbm if contract.family == "lightgbm" else mlflow.xgboost
        booster = flavor.load_model(uri)
    except MlflowException as error:
        raise NextbuyError(
            f"MLflow names no {alias} ({error}). Make one with: nextbuy train"
        ) from error
    return Named(str(version.version), contract, booster, metrics)
