"""The settings of training. Apart from train.py, because every verb with `--config` checks them.

Importing MLflow for that would cost such a verb seconds.
"""

from pydantic import BaseModel, ConfigDict

from nextbuy.models.economics import OfferConfig
from nextbuy.models.family import ModelConfig
from training.gates import GateConfig
from training.splits import SplitConfig


class TrainConfig(BaseModel):
    """How to split and fit, what a promotion requires, and what a contact is worth.

    The `train` section of a config file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    gates: GateConfig = GateConfig()
    offer: OfferConfig = OfferConfig()
