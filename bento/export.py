"""The champion, from the MLflow registry into BentoML's model store.

The alias is resolved once, here. What serves is a tag that never changes its content, and serving
needs no MLflow.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bento.deployment import Deployment
from nextbuy.contract import CHALLENGER, CHAMPION, REGISTERED_MODEL, ModelContract
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.versioned_table import file_digest, fingerprint

CARD = "model.json"


class ModelCard(BaseModel):
    """What lies beside the booster's file in the model store."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contract: ModelContract
    booster: str
    """Name of the booster's file, in its library's own format."""
    mlflow_version: str
    run_id: str


def export_champion(settings: Settings) -> str:
    """Copy the champion into BentoML's model store (`BENTOML_HOME`); its tag comes back.

    The tag is made of the MLflow version and the content: exporting again changes nothing, except
    that `nextbuy:latest` is whatever was exported last, so a rollback of the alias rolls back.

    >>> export_champion(Settings())
    'nextbuy:v3-5d41402abc4b'

    Raises:
        NextbuyError: there is no champion, or it is not a booster with a contract.
    """
    return export_alias(settings, CHAMPION)


def export_alias(settings: Settings, alias: str) -> str:
    """As `export_champion`, for the model version behind any alias.

    Only the champion becomes `nextbuy:latest`.
    """
    import bentoml
    from bentoml.exceptions import NotFound

    with tempfile.TemporaryDirectory(prefix="nextbuy-export-") as folder:
        card = _download(settings, alias, Path(folder))
        content = fingerprint(
            card.model_dump(mode="json"), file_digest(Path(folder) / card.booster)
        )
        tag = f"{REGISTERED_MODEL}:v{card.mlflow_version}-{content[:12]}"
        try:
            stored = bentoml.models.get(tag)
        except NotFound:
            with bentoml.models.create(
                tag, labels={"family": card.contract.family}, metadata={"run_id": card.run_id}
            ) as stored:
                shutil.copy(Path(folder) / card.booster, stored.path_of(card.booster))
                Path(stored.path_of(CARD)).write_text(card.model_dump_json(indent=1))
            stored = bentoml.models.get(tag)
    if alias == CHAMPION:
        # BentoML moves `latest` to a newly made model alone; a rollback makes none.
        (Path(stored.path).parent / "latest").write_text(tag.split(":")[1])
    return tag


def export_deployment(settings: Settings, shadow: bool = False) -> Deployment:
    """Export the champion, with `shadow` the challenger too.

    Raises:
        NextbuyError: as `export_champion`, for each of them.
    """
    challenger = export_alias(settings, CHALLENGER) if shadow else None
    return Deployment(model=export_champion(settings), shadow=challenger)


def read_card(folder: Path) -> ModelCard:
    """The card of a model in the store.

    Raises:
        NextbuyError: the folder holds no model that `export_champion` wrote.
    """
    try:
        return ModelCard.model_validate_json((folder / CARD).read_text())
    except (FileNotFoundError, ValidationError) as error:
        raise NextbuyError(
            f"{folder} is not an exported Nextbuy model ({error}). Export the champion again: "
            "nextbuy serve"
        ) from None


def _download(settings: Settings, alias: str, folder: Path) -> ModelCard:
    import mlflow
    from mlflow.exceptions import MlflowException

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    client = mlflow.MlflowClient(settings.tracking_uri, settings.tracking_uri)
    try:
        version = client.get_model_version_by_alias(REGISTERED_MODEL, alias)
    except MlflowException as error:
        raise NextbuyError(
            f"MLflow at {settings.tracking_uri} has no model {REGISTERED_MODEL!r} with the alias "
            f"{alias!r} ({error.message}). Train one: nextbuy train"
        ) from None
    # The module-level functions of MLflow read the tracking address from global state.
    uri = client.get_model_version_download_uri(REGISTERED_MODEL, version.version)
    local = Path(
        mlflow.artifacts.download_artifacts(
            artifact_uri=uri, dst_path=str(folder), tracking_uri=settings.tracking_uri
        )
    )
    name = f"version {version.version} of {REGISTERED_MODEL!r}"
    described: dict[str, Any] = mlflow.models.Model.load(str(local)).to_dict()
    try:
        contract = ModelContract.model_validate((described.get("metadata") or {})["contract"])
        data = described["flavors"][contract.family]["data"]
    except KeyError as error:
        raise NextbuyError(
            f"{name} lacks {error.args[0]!r} in its MLmodel file. Log a native booster with "
            'metadata={"contract": …}, as `nextbuy train` does.'
        ) from None
    except ValidationError as error:
        raise NextbuyError(f"The contract of {name} is not readable: {error}") from None
    booster = folder / f"booster{Path(data).suffix}"
    shutil.move(local / data, booster)
    return ModelCard(
        contract=contract,
        booster=booster.name,
        mlflow_version=str(version.version),
        run_id=version.run_id or "",
    )
