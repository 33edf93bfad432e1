"""What the service is deployed with: models of BentoML's store, and the container image.

The champion's alias in the MLflow registry is resolved once, here. What serves is a tag that never
changes its content, and serving needs no MLflow.
"""

import os
import shutil
import tempfile
from pathlib import Path

import bentoml
from bentoml.exceptions import NotFound
from bentoml.images import Image
from pydantic import BaseModel, ConfigDict

from bento.model import INFO, BentoModelInfo
from nextbuy.atomic import write_text
from nextbuy.contract import CHALLENGER, CHAMPION, REGISTERED_MODEL
from nextbuy.settings import PROJECT, Settings
from nextbuy.versioned_table import file_digest, fingerprint

DEPLOYMENT_FILE = "NEXTBUY_DEPLOYMENT"
"""Environment variable: path of the deployment file, where there is one."""
BASE_IMAGE = "python:3.11.14-slim-bookworm"
"""Pinned to the patch; an image of one's own registry may carry its tag (`docker tag`)."""


class Deployment(BaseModel):
    """Which models a server answers with, as tags in BentoML's model store.

    `bentoml serve` and a container name them in the environment. `nextbuy serve` writes them to a
    file, which each worker reads when it starts and which `nextbuy reload` replaces.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = f"{REGISTERED_MODEL}:latest"
    """Its scores are the answer."""
    shadow: str | None = None
    """Scores the same requests beside it, for the prediction log alone."""

    @classmethod
    def read(cls, file: Path) -> "Deployment":
        """What a deployment file names."""
        return cls.model_validate_json(file.read_text())

    @classmethod
    def from_environment(cls) -> "Deployment":
        """What the deployment file names, else `NEXTBUY_MODEL` and `NEXTBUY_SHADOW`."""
        if file := os.environ.get(DEPLOYMENT_FILE):
            return cls.read(Path(file))
        tags = {name: os.environ.get(f"NEXTBUY_{name.upper()}") for name in cls.model_fields}
        return cls(**{name: tag for name, tag in tags.items() if tag})

    def write(self, file: Path) -> None:
        """Replace a deployment file as a whole: a worker reads the old one or the new one."""
        write_text(file, self.model_dump_json())


def image() -> Image:
    """Python, the one system library that LightGBM needs, and the service's locked packages."""
    built = Image(
        base_image=BASE_IMAGE, python_version="3.11", distro="none", lock_python_packages=False
    )
    built.run(
        "apt-get update && apt-get install --yes --no-install-recommends libgomp1 "
        "&& rm -rf /var/lib/apt/lists/*"
    )
    # `requirements_file` takes no absolute path, and a Bento is served from any folder.
    return built.python_packages((PROJECT / "requirements" / "service.lock").read_text())


def export_champion(settings: Settings) -> str:
    """Copy the champion into BentoML's model store (`BENTOML_HOME`); its tag comes back.

    The tag is made of the MLflow version and the content: exporting again changes nothing, except
    that `nextbuy:latest` is the tag exported last, so a rollback of the alias rolls back.

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
    from nextbuy.models.registry import download  # MLflow; serving does without

    with tempfile.TemporaryDirectory(prefix="nextbuy-export-") as folder:
        stored = download(settings, alias, Path(folder))
        info = BentoModelInfo(
            contract=stored.contract,
            booster=stored.file.name,
            mlflow_version=stored.version,
            run_id=stored.run_id,
        )
        content = fingerprint(info.model_dump(mode="json"), file_digest(stored.file))
        tag = f"{REGISTERED_MODEL}:v{info.mlflow_version}-{content[:12]}"
        try:
            model = bentoml.models.get(tag)
        except NotFound:
            with bentoml.models.create(
                tag, labels={"family": info.contract.family}, metadata={"run_id": info.run_id}
            ) as model:
                shutil.copy(stored.file, model.path_of(info.booster))
                Path(model.path_of(INFO)).write_text(info.model_dump_json(indent=1))
            model = bentoml.models.get(tag)
    if alias == CHAMPION:
        # BentoML moves `latest` to a newly made model alone; a rollback makes none.
        (Path(model.path).parent / "latest").write_text(tag.split(":")[1])
    return tag


def export_deployment(settings: Settings, shadow: bool = False) -> Deployment:
    """Export the champion, with `shadow` the challenger too.

    Raises:
        NextbuyError: as `export_champion`, for each of them.
    """
    challenger = export_alias(settings, CHALLENGER) if shadow else None
    return Deployment(model=export_champion(settings), shadow=challenger)
