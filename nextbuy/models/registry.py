"""The MLflow registry: fitted boosters go in, two aliases say which serves and which waits."""

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import lightgbm as lgb
import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from nextbuy.contract import REGISTERED_MODEL, ModelContract
from nextbuy.errors import NextbuyError, explain_refusal
from nextbuy.models.booster import Booster
from nextbuy.settings import Settings

EXPERIMENT = "next session purchase"


def client(settings: Settings) -> MlflowClient:
    """Point MLflow at the project's store, whose experiment is made where it is missing."""
    uri = settings.tracking_uri
    if uri.startswith("sqlite:///"):
        (settings.data / "mlflow").mkdir(parents=True, exist_ok=True)
    mlflow.set_tracking_uri(uri)
    found = MlflowClient(uri)
    try:
        if found.get_experiment_by_name(EXPERIMENT) is None:
            folder = settings.data / "mlflow" / "artifacts"
            found.create_experiment(
                EXPERIMENT, folder.as_uri() if uri.startswith("sqlite:///") else None
            )
    except MlflowException as error:
        raise NextbuyError(
            explain_refusal(error)
            or f"MLflow at {uri} does not answer: {error}. "
            "Start it, or unset MLFLOW_TRACKING_URI to use SQLite below the data folder."
        ) from error
    mlflow.set_experiment(EXPERIMENT)
    return found


def log_booster(booster: Booster, contract: ModelContract) -> str:
    """Log and register the booster in the active run; returns the version's number."""
    flavor: Any = mlflow.lightgbm if isinstance(booster, lgb.Booster) else mlflow.xgboost
    with redirect_stderr(io.StringIO()):  # what it registers is printed there, log level or not
        logged = flavor.log_model(
            booster,
            name="model",
            registered_model_name=REGISTERED_MODEL,
            metadata={"contract": contract.model_dump(mode="json")},
            pip_requirements=[],  # the Bento carries the booster alone
        )
    return str(logged.registered_model_version)


@contextmanager
def reachable(settings: Settings) -> Iterator[None]:
    """Turn an MLflow that stops answering in the block into a message.

    Aliases move last and one at a time, so the champion is then what it was.

    Raises:
        NextbuyError: MLflow went away.
    """
    try:
        yield
    except (MlflowException, ConnectionError) as error:
        raise NextbuyError(
            explain_refusal(error)
            or f"MLflow at {settings.tracking_uri} failed on the way: {error}. The champion is "
            "what it was; what was logged stays. Bring MLflow back and run the command again."
        ) from error


def behind(found: MlflowClient, alias: str) -> Any | None:
    """The registry's version behind an alias, or None where the alias points nowhere."""
    try:
        return found.get_model_version_by_alias(REGISTERED_MODEL, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def point(found: MlflowClient, alias: str, version: str) -> None:
    """Let the alias point to this version."""
    found.set_registered_model_alias(REGISTERED_MODEL, alias, version)


def tag(found: MlflowClient, version: str, **tags: str) -> None:
    """Write tags on a version."""
    for name, value in tags.items():
        found.set_model_version_tag(REGISTERED_MODEL, version, name, value)


def load(uri: str) -> tuple[Booster, ModelContract]:
    """The booster and its contract behind a model URI such as `models:/nextbuy@champion`."""
    metadata = mlflow.models.get_model_info(uri).metadata or {}
    contract = ModelContract.model_validate(metadata["contract"])
    flavor: Any = mlflow.lightgbm if contract.family == "lightgbm" else mlflow.xgboost
    return flavor.load_model(uri), contract
