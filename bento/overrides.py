"""What a request says of its items right now, in place of stored feature values."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bento.schemas import PredictRequest
from nextbuy.contract import ModelContract

Changes = dict[str, dict[int, float]]
"""Item -> column of the matrix -> value."""


class ContextError(ValueError):
    """The request's context names what the model does not take; the message is for the client."""


class Context:
    """Reads requests' context for one model."""

    def __init__(self, contract: ModelContract) -> None:
        self._columns = {name: i for i, name in enumerate(contract.features)}
        self._codes = contract.codes

    def changes(self, request: PredictRequest) -> Changes:
        """What the request's context changes.

        Raises:
            ContextError: the context does not fit the model.
        """
        return {
            item: {self._column(name): self._value(name, value) for name, value in named.items()}
            for item, named in request.context.items()
        }

    def changes_where_known(self, request: PredictRequest) -> Changes:
        """As `changes`, for a model that the client does not know of: what fits is taken."""
        found: Changes = {}
        for item, named in request.context.items():
            for name, value in named.items():
                try:
                    found.setdefault(item, {})[self._column(name)] = self._value(name, value)
                except ContextError:
                    continue
        return found

    def _column(self, name: str) -> int:
        if name not in self._columns:
            raise ContextError(f"context: the model takes no feature {name!r}; see GET /model")
        return self._columns[name]

    def _value(self, name: str, value: float | str | None) -> float:
        if value is None:
            return math.nan
        if (name in self._codes) != isinstance(value, str):
            kind = "a string" if name in self._codes else "a number"
            raise ContextError(f"context: {name} is {kind}")
        if isinstance(value, str):
            return self._codes[name].get(value, math.nan)
        if abs(value) > np.finfo(np.float32).max:
            raise ContextError(f"context: {name} is out of range")
        return value


def apply(changes: Changes, items: Sequence[str], matrix: NDArray[np.float32]) -> None:
    """Put the changes into the rows of their items, in place."""
    for row, item in enumerate(items):
        for column, value in changes.get(item, {}).items():
            matrix[row, column] = value
