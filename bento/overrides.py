"""Feature values that a request brings itself (its `context`), in place of stored ones."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bento.schemas import PredictRequest
from nextbuy.contract import ModelContract

Overrides = dict[str, dict[int, float]]
"""Item -> column of the matrix -> value."""


class OverrideError(ValueError):
    """The request's context does not fit the model; the message is for the client."""


class OverrideReader:
    """Reads the context of requests for one model."""

    def __init__(self, contract: ModelContract) -> None:
        self._columns = {name: i for i, name in enumerate(contract.features)}
        self._codes = contract.codes

    def read(self, request: PredictRequest) -> Overrides:
        """The values of the request's context by column.

        Raises:
            OverrideError: the context does not fit the model.
        """
        return {
            item: {self._column(name): self._value(name, value) for name, value in values.items()}
            for item, values in request.context.items()
        }

    def read_applicable(self, request: PredictRequest) -> Overrides:
        """As `read`, without what does not fit: the client does not know this model."""
        overrides: Overrides = {}
        for item, values in request.context.items():
            for name, value in values.items():
                try:
                    overrides.setdefault(item, {})[self._column(name)] = self._value(name, value)
                except OverrideError:
                    continue
        return overrides

    def _column(self, name: str) -> int:
        if name not in self._columns:
            raise OverrideError(f"context: the model takes no feature {name!r}; see GET /model")
        return self._columns[name]

    def _value(self, name: str, value: float | str | None) -> float:
        if value is None:
            return math.nan
        if (name in self._codes) != isinstance(value, str):
            kind = "a string" if name in self._codes else "a number"
            raise OverrideError(f"context: {name} is {kind}")
        if isinstance(value, str):
            return self._codes[name].get(value, math.nan)
        if abs(value) > np.finfo(np.float32).max:
            raise OverrideError(f"context: {name} is out of range")
        return value


def apply_overrides(
    overrides: Overrides, items: Sequence[str], matrix: NDArray[np.float32]
) -> None:
    """Write the values into the rows of their items, in place.

    `matrix` has one row per item, in the order of `items`.
    """
    for row, item in enumerate(items):
        for column, value in overrides.get(item, {}).items():
            matrix[row, column] = value
