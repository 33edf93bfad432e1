"""A model in BentoML's store: the booster's own file, and `model.json` beside it."""

from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from nextbuy.contract import ModelContract
from nextbuy.errors import NextbuyError
from nextbuy.models.booster import Booster, load_booster
from nextbuy.settings import Settings
from nextbuy.shop import shop_settings

INFO = "model.json"


class BentoModelInfo(BaseModel):
    """What `model.json` says."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    contract: ModelContract
    booster: str
    """Name of the booster's file, in its library's own format."""
    mlflow_version: str
    run_id: str


def horizon(contract: ModelContract, settings: Settings) -> timedelta:
    """How long after a session its items have an answer: as the model learned it.

    A model of an older version does not say; then it is the shop's.
    """
    shop = contract.shop or shop_settings(settings)
    return timedelta(days=shop.labels.horizon_days)


class Model:
    """An exported model, ready to score."""

    def __init__(self, tag: str, folder: Path, threads: int = 1) -> None:
        """Load the model in `folder`.

        One thread is fastest for a request's few dozen rows; bulk scoring takes more.

        Raises:
            NextbuyError: the folder is not an exported model, or its columns are not the
                contract's.
        """
        self.tag = tag
        self.info = read_info(folder)
        self.contract: ModelContract = self.info.contract
        self.booster: Booster = load_booster(folder / self.info.booster, self.contract, threads)


def read_info(folder: Path) -> BentoModelInfo:
    """What is known of a model in the store.

    Raises:
        NextbuyError: the folder holds no model that `bento.export` wrote.
    """
    try:
        return BentoModelInfo.model_validate_json((folder / INFO).read_text())
    except (FileNotFoundError, ValidationError) as error:
        raise NextbuyError(
            f"{folder} is not an exported Nextbuy model ({error}). Export the champion again: "
            "nextbuy serve"
        ) from None
