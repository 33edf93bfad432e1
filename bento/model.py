"""The booster that scores, loaded by its own library: no pandas, no wrapper in the way."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bento.export import ModelCard, read_card
from nextbuy.contract import ModelContract
from nextbuy.errors import NextbuyError


class Booster(Protocol):
    """What both families offer once loaded."""

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """Calibrated probabilities of shape (rows,)."""
        ...

    def contributions(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        """What each feature adds to the log-odds, of shape (rows, features)."""
        ...


class Model:
    """An exported model: its tag, its card and its booster."""

    def __init__(self, tag: str, folder: Path, threads: int = 1) -> None:
        """Load the model in `folder`.

        One thread is fastest for a request's few dozen rows; bulk scoring asks for more.

        Raises:
            NextbuyError: the folder is not an exported model, or its columns are not the
                contract's.
        """
        self.tag = tag
        self.card: ModelCard = read_card(folder)
        path = folder / self.card.booster
        family = _XGBoost if self.contract.family == "xgboost" else _LightGBM
        self.booster: Booster = family(path, self.contract, threads)

    @property
    def contract(self) -> ModelContract:
        """Which features the model takes, in which order."""
        return self.card.contract


class _XGBoost:
    def __init__(self, path: Path, contract: ModelContract, threads: int) -> None:
        import xgboost

        self._library: Any = xgboost
        self._booster: Any = xgboost.Booster(model_file=str(path))
        self._booster.set_param({"nthread": threads})
        self._calibration = contract.calibration
        names, types = self._booster.feature_names, self._booster.feature_types
        _check_columns(contract, int(self._booster.num_features()), names)
        self._types = types

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        found = np.asarray(self._booster.inplace_predict(matrix), np.float64)
        return self._calibration.apply(found)

    def contributions(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        # Exact SHAP takes thirty times as long.
        block = self._library.DMatrix(
            matrix, feature_names=self._booster.feature_names, feature_types=self._types
        )
        found = self._booster.predict(block, pred_contribs=True, approx_contribs=True)
        # The last column is the base value.
        return np.asarray(found, np.float64)[:, :-1] * self._calibration.slope


class _LightGBM:
    def __init__(self, path: Path, contract: ModelContract, threads: int) -> None:
        import lightgbm

        self._booster: Any = lightgbm.Booster(model_file=str(path))
        self._threads = threads
        self._calibration = contract.calibration
        # LightGBM replaces what JSON would trip over, so its names are not compared.
        _check_columns(contract, int(self._booster.num_feature()), None)

    def predict(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        found = self._booster.predict(matrix, num_threads=self._threads)
        return self._calibration.apply(np.asarray(found, np.float64))

    def contributions(self, matrix: NDArray[np.float32]) -> NDArray[np.float64]:
        found = self._booster.predict(matrix, pred_contrib=True, num_threads=self._threads)
        return np.asarray(found, np.float64)[:, :-1] * self._calibration.slope


def _check_columns(contract: ModelContract, count: int, names: Sequence[str] | None) -> None:
    if count != len(contract.features):
        raise NextbuyError(
            f"The booster takes {count} columns, its contract names {len(contract.features)}. "
            "Train and export again."
        )
    differing = [
        f"column {place} is {name!r} in the booster and {feature!r} in the contract"
        for place, (name, feature) in enumerate(zip(names or (), contract.features, strict=False))
        if name != feature
    ]
    if differing:
        raise NextbuyError(f"{'; '.join(differing)}. Train and export again.")
