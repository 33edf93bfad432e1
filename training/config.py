"""The WHAT-settings of training, read from the `train` section of a config file."""

from pydantic import BaseModel, ConfigDict

from nextbuy.models.economics import OfferConfig
from training.boosting import ModelConfig
from training.gates import GateConfig
from training.splits import SplitConfig


class TrainConfig(BaseModel):
    """How to split and fit, what a promotion asks for, and what a contact is worth."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    split: SplitConfig = SplitConfig()
    model: ModelConfig = ModelConfig()
    gates: GateConfig = GateConfig()
    offer: OfferConfig = OfferConfig()
