"""The MLflow registry: fitted boosters go in, two aliases say which serves and which waits.

The one place that resolves an alias to a booster and its contract.
"""

import io
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import ValidationError

import nextbuy.telemetry  # noqa: F401  # before MLflow looks at the environment
from nextbuy.contract import CHALLENGER, CHAMPION, REGISTERED_MODEL, ModelContract
from nextbuy.errors import NextbuyError, explain_refusal
from nextbuy.models.artifact_addresses import follow
from nextbuy.models.booster import Booster, load_booster
from nextbuy.models.families import family_of
from nextbuy.settings import Settings

EXPERIMENT = "next session purchase"
NO_CHALLENGER = (
    "There is no challenger beside the champion. One comes from new data or other settings: "
    "nextbuy train"
)


class BoosterFile(NamedTuple):
    """A registered version's booster, as the file that its own library wrote."""

    version: str
    run_id: str
    contract: ModelContract
    file: Path


class RegisteredModel(NamedTuple):
    """A registered version, loaded."""

    version: str
    booster: Booster
    metrics: dict[str, float]
    """Of its MLflow run: `validation_pr_auc`, `test_pr_auc` and so on."""


def client(settings: Settings) -> MlflowClient:
    """Point MLflow at the project's store, whose experiment is made where it is missing.

    Raises:
        NextbuyError: MLflow does not answer.
    """
    uri = settings.tracking_uri
    if uri.startswith("sqlite:///"):
        (settings.data / "mlflow").mkdir(parents=True, exist_ok=True)
    _settle(settings)
    mlflow.set_tracking_uri(uri)
    mlflow_client = MlflowClient(uri)
    try:
        if mlflow_client.get_experiment_by_name(EXPERIMENT) is None:
            folder = settings.data / "mlflow" / "artifacts"
            mlflow_client.create_experiment(
                EXPERIMENT, folder.as_uri() if uri.startswith("sqlite:///") else None
            )
    except MlflowException as error:
        raise NextbuyError(
            explain_refusal(error)
            or f"MLflow at {uri} does not answer: {error}. "
            "Start it, or unset MLFLOW_TRACKING_URI to use SQLite below the data folder."
        ) from error
    mlflow.set_experiment(EXPERIMENT)
    return mlflow_client


def log_booster(booster: Booster) -> str:
    """Log and register the booster in the active run; returns the version's number."""
    family = family_of(booster.contract.family)
    with redirect_stderr(io.StringIO()):  # what it registers is printed there, log level or not
        logged = family.log(
            booster.native,
            name="model",
            registered_model_name=REGISTERED_MODEL,
            metadata={"contract": booster.contract.model_dump(mode="json")},
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


def version_of(mlflow_client: MlflowClient, alias: str) -> ModelVersion | None:
    """The registry's version behind an alias, or None where the alias points nowhere."""
    try:
        return mlflow_client.get_model_version_by_alias(REGISTERED_MODEL, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def waiting(mlflow_client: MlflowClient) -> ModelVersion | None:
    """The version that waits for promotion; None if the champion is the only one.

    The first model of a registry has both aliases, and so has one that was promoted.
    """
    challenger = version_of(mlflow_client, CHALLENGER)
    champion = version_of(mlflow_client, CHAMPION)
    if challenger and champion and challenger.version == champion.version:
        return None
    return challenger


def set_alias(mlflow_client: MlflowClient, alias: str, version: str) -> None:
    """Let the alias point to this version."""
    mlflow_client.set_registered_model_alias(REGISTERED_MODEL, alias, version)


def tag(mlflow_client: MlflowClient, version: str, **tags: str) -> None:
    """Write tags on a version."""
    for name, value in tags.items():
        mlflow_client.set_model_version_tag(REGISTERED_MODEL, version, name, value)


def load_alias(settings: Settings, alias: str, threads: int = 0) -> RegisteredModel:
    """The model behind an alias, for scoring on so many threads (0: all cores).

    Raises:
        NextbuyError: as `download`, or its booster has other columns than its contract.
    """
    return load_version(settings, _require(settings, alias), threads)


def load_version(settings: Settings, version: ModelVersion, threads: int = 0) -> RegisteredModel:
    """As `load_alias`, for a version that `version_of` gave."""
    with tempfile.TemporaryDirectory(prefix="nextbuy-model-") as folder:
        stored = _download(settings, version, Path(folder))
        booster = load_booster(stored.file, stored.contract, threads)
    with reachable(settings):
        metrics = reader(settings).get_run(stored.run_id).data.metrics
    return RegisteredModel(stored.version, booster, metrics)


def download(settings: Settings, alias: str, folder: Path) -> BoosterFile:
    """Copy the booster behind an alias into `folder`, as `booster` with its format's suffix.

    Raises:
        NextbuyError: nothing was trained, MLflow does not answer, no version has the alias, or
            the version is not a booster with a contract.
    """
    return _download(settings, _require(settings, alias), folder)


def reader(settings: Settings) -> MlflowClient:
    """A client of the project's store that makes nothing.

    Raises:
        NextbuyError: the data folder was copied without its artifacts.
    """
    _settle(settings)
    return MlflowClient(settings.tracking_uri, settings.tracking_uri)


def _settle(settings: Settings) -> None:
    """Let MLflow's own SQLite name this folder's artifacts, wherever it was made."""
    own = settings.model_copy(update={"mlflow_tracking_uri": None})
    if settings.tracking_uri == own.tracking_uri:
        follow(settings.data)


def _require(settings: Settings, alias: str) -> ModelVersion:
    version = None
    if settings.mlflow_tracking_uri or (settings.data / "mlflow").is_dir():
        with reachable(settings):
            version = version_of(reader(settings), alias)
    if version is None:
        raise NextbuyError(f"There is no {alias} yet. Make one with: nextbuy train")
    return version


def _download(settings: Settings, version: ModelVersion, folder: Path) -> BoosterFile:
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with reachable(settings):
        # The module-level functions of MLflow read the tracking address from global state.
        local = mlflow.artifacts.download_artifacts(
            artifact_uri=reader(settings).get_model_version_download_uri(
                REGISTERED_MODEL, version.version
            ),
            dst_path=str(folder),
            tracking_uri=settings.tracking_uri,
        )
    contract, data = _described(Path(local), f"version {version.version} of {REGISTERED_MODEL!r}")
    file = folder / f"booster{data.suffix}"
    shutil.move(data, file)
    return BoosterFile(str(version.version), version.run_id or "", contract, file)


def _described(folder: Path, name: str) -> tuple[ModelContract, Path]:
    """The contract and the booster's file, from the MLmodel file in `folder`."""
    described: dict[str, Any] = mlflow.models.Model.load(str(folder)).to_dict()
    try:
        contract = ModelContract.model_validate((described.get("metadata") or {})["contract"])
        return contract, folder / described["flavors"][contract.family]["data"]
    except KeyError as error:
        raise NextbuyError(
            f"{name} lacks {error.args[0]!r} in its MLmodel file. Log a native booster with "
            'metadata={"contract": …}, as `nextbuy train` does.'
        ) from None
    except ValidationError as error:
        raise NextbuyError(f"The contract of {name} is not readable: {error}") from None
