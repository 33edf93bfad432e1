"""The champion, from the MLflow registry into BentoML's model store.

The alias is resolved once, here. What serves is a tag that never changes its content, and serving
needs no MLflow.
"""

import shutil
import tempfile
from pathlib import Path

from bento.deployment import Deployment
from bento.model import INFO, BentoModelInfo
from nextbuy.contract import CHALLENGER, CHAMPION, REGISTERED_MODEL
from nextbuy.settings import Settings
from nextbuy.versioned_table import file_digest, fingerprint


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

    from nextbuy.models.registry import download  # with MLflow: not for who only serves

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
