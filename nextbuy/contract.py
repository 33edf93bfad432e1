"""The contract of a model: how named features become the matrix that it was fitted on.

Training writes it into the MLflow model's metadata, serving and monitoring read it from there, so
that the order of columns and the codes of categories exist once.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from nextbuy.shop import ShopSettings

REGISTERED_MODEL = "nextbuy"
"""Name in the MLflow registry."""
CHAMPION = "champion"
"""Alias of the version that serves."""
CHALLENGER = "challenger"
"""Alias of the version that waits for promotion."""
FEATURE_SERVICE = "next_session_purchase"
"""The Feast feature service that training and serving both read."""


class Calibration(BaseModel):
    """Calibrated log-odds are `slope` times the booster's plus `intercept` (Platt, 1999).

    Monotonic, so the ranking is unchanged; the default is the identity.

    >>> Calibration(intercept=-1.0).apply(np.array([0.5])).round(3)
    array([0.269])
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slope: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    intercept: float = Field(default=0.0, allow_inf_nan=False)

    def apply(self, probability: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated probabilities, in the same shape."""
        if self.slope == 1.0 and self.intercept == 0.0:
            return probability
        odds = log_odds(probability)
        calibrated: NDArray[np.float64] = 1 / (1 + np.exp(-self.slope * odds - self.intercept))
        return calibrated


def log_odds(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Finite for every probability: a booster's single precision reaches 0 and 1."""
    inside = np.clip(np.asarray(probability, np.float64), 1e-7, 1 - 1e-7)
    odds: NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
    return odds


class ModelContract(BaseModel):
    """Feature service, columns, category codes, calibration and meaning of one fitted model.

    >>> contract = ModelContract(feature_service="s", features=("item__brand", "item__price"),
    ...                          categories={"item__brand": ("acme", "zen")}, family="xgboost")
    >>> contract.matrix({"item__brand": ["zen", "new", None], "item__price": [5, None, 7]})
    array([[ 1.,  5.],
           [nan, nan],
           [nan,  7.]], dtype=float32)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    feature_service: str
    features: tuple[str, ...]
    """Full Feast names (`view__feature`), in the order of the model's columns."""
    categories: dict[str, tuple[str, ...]]
    """Categorical feature -> its values; the code is the position. Anything else is missing."""
    family: str
    """A name in `nextbuy.models.booster.FAMILIES`."""
    calibration: Calibration = Calibration()
    """What turns the booster's probabilities into the model's."""
    shop: ShopSettings | None = None
    """What a probability means: the horizon of the labels, the gap that ends a session and the
    shop's clock, as they were in training. None in a model that an older version trained."""

    @cached_property
    def codes(self) -> dict[str, dict[str, int]]:
        """Categorical feature -> value -> code."""
        return {
            name: {value: code for code, value in enumerate(values)}
            for name, values in self.categories.items()
        }

    def matrix(self, columns: Mapping[str, Any] | pa.Table) -> NDArray[np.float32]:
        """Encode columns as the model's float32 block of shape (rows, features).

        Missing values and categories that training never saw become NaN.

        Raises:
            KeyError: a feature of the contract is not among the columns.
        """
        missing = [name for name in self.features if name not in _names(columns)]
        if missing:
            raise KeyError(f"features absent from the input: {', '.join(missing)}")
        arrays = [self._encode(name, columns[name]) for name in self.features]
        return np.column_stack(arrays) if arrays else np.empty((0, 0), np.float32)

    def _encode(self, name: str, values: Any) -> NDArray[np.float32]:
        array = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
        if name in self.categories:
            known = pa.array(self.categories[name], pa.string())
            array = pc.index_in(array.cast(pa.string()), value_set=known, skip_nulls=True)
        column = array.cast(pa.float32(), safe=False)
        return np.asarray(column.to_numpy(zero_copy_only=False), np.float32)  # nulls -> NaN


def _names(columns: Mapping[str, Any] | pa.Table) -> Sequence[str]:
    return columns.column_names if isinstance(columns, pa.Table) else list(columns)
