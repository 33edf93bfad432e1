"""Why a probability is what it is, in plain words for the shop's staff.

A reason is one feature's contribution to the log-odds (exact, by TreeSHAP) with the value that the
model saw.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bento.model import Model
from bento.reader import FeatureDescription
from bento.schemas import Reason

UNITS = ((86_400, "days"), (3_600, "hours"), (60, "minutes"))


class Explainer:
    """Describes a model's contributions in words."""

    def __init__(self, model: Model, descriptions: Mapping[str, FeatureDescription]) -> None:
        self._model = model
        self._descriptions = descriptions

    def explain(self, matrix: NDArray[np.float32], count: int) -> list[list[Reason]]:
        """For each row the `count` features that move its log-odds most, the strongest first.

        Features that do not move them are no reasons: there may be fewer.
        """
        contributions = self._model.booster.contributions(matrix)
        return [
            [
                self._reason(place, float(values[place]), float(effects[place]))
                for place in np.argsort(-np.abs(effects), kind="stable")[:count]
                if effects[place]
            ]
            for values, effects in zip(matrix, contributions, strict=True)
        ]

    def _reason(self, place: int, value: float, effect: float) -> Reason:
        name = self._model.contract.features[place]
        description = self._descriptions[name]
        side = "for" if effect > 0 else "against"
        text = (
            f"{description.text} ({description.subject}): {self._display(name, value)}, "
            f"speaks {side} a purchase"
        )
        return Reason(feature=name, text=text, effect=effect)

    def _display(self, name: str, value: float) -> str:
        if np.isnan(value):
            return "not known"
        if name in self._model.contract.categories:
            return self._model.contract.categories[name][int(value)]
        return display(value, self._descriptions[name].unit)


def display(value: float, unit: str) -> str:
    """A value as people write it.

    >>> display(1299, "cents"), display(0.125, "share"), display(5400, "seconds")
    ('12.99', '12.5 %', '1.5 hours')
    """
    if unit == "cents":
        return f"{value / 100:.2f}"
    if unit == "share":
        return f"{value * 100:.1f} %"
    if unit == "flag":
        return "yes" if value else "no"
    if unit == "seconds":
        for length, word in UNITS:
            if value >= length:
                return f"{value / length:.1f} {word}"
        return f"{value:.0f} seconds"
    return f"{value:.0f}" if value == int(value) else f"{value:.2f}"
