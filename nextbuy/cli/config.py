"""The settings of a run, read from one YAML file that holds only what differs from the defaults."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from nextbuy.errors import NextbuyError
from nextbuy.tables.labels import LabelConfig
from nextbuy.tables.sessions import SessionConfig
from nextbuy.yaml_file import load_yaml, mistakes

if TYPE_CHECKING:
    from training.config import TrainConfig

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        envvar="NEXTBUY_CONFIG",
        help="YAML file with what differs from the defaults: sessions, labels, train.",
    ),
]


class RunConfig(BaseModel):
    """Sections of the file: the settings of one stage each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sessions: SessionConfig = SessionConfig()
    labels: LabelConfig = LabelConfig()
    train: dict[str, object] = {}
    """Read by `train_config`: only training imports training's settings."""

    def train_config(self) -> "TrainConfig":
        """The training section, checked."""
        from training.config import TrainConfig

        return TrainConfig.model_validate(self.train)


def read_config(file: Path | None) -> RunConfig:
    """Read the file; None gives the defaults.

    Raises:
        NextbuyError: the file is missing, or a setting is unknown or out of bounds.
    """
    if file is None:
        return RunConfig()
    config = load_yaml(file, RunConfig)
    try:
        config.train_config()
    except ValidationError as error:
        raise NextbuyError(mistakes(error, f"The config file {file}", ("train",))) from None
    return config
