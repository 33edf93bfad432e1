"""A fitted model of any family: calibrated probabilities, and what each feature adds to them.

Its own library loads and scores it: no pandas, no scikit-learn, no MLflow in the way.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from nextbuy.contract import Calibration, ModelContract
from nextbuy.models.families import family_of
from nextbuy.models.family import Family, Labelled, Matrix, ModelConfig, Report, Vector


@dataclass(frozen=True)
class Booster:
    """A booster with its contract."""

    native: Any
    """The family's own object."""
    contract: ModelContract
    threads: int = 0
    """For scoring; 0: all cores. One is fastest for a request's few dozen rows."""

    def predict(self, matrix: Matrix) -> Vector:
        """Calibrated probabilities, shape (rows,), of a matrix that the contract encoded."""
        raw = self._family.predict(self.native, matrix, self.threads)
        return self.contract.calibration.apply(np.asarray(raw, np.float64))

    def score(self, table: pa.Table) -> Vector:
        """As `predict`, for columns named as the contract's features."""
        return self.predict(self.contract.matrix(table))

    def contributions(self, matrix: Matrix) -> Vector:
        """What each feature adds to the calibrated log-odds (SHAP), shape (rows, features)."""
        values = self._family.explain(self.native, matrix, self.threads)
        return np.asarray(values, np.float64) * self.contract.calibration.slope

    def calibrated(self, calibration: Calibration) -> "Booster":
        """The same booster under another calibration."""
        contract = self.contract.model_copy(update={"calibration": calibration})
        return replace(self, contract=contract)

    @cached_property
    def _family(self) -> Family:
        return family_of(self.contract.family)


def fit_booster(
    contract: ModelContract,
    train: Labelled,
    validation: Labelled,
    config: ModelConfig,
    report: Report | None = None,
) -> Booster:
    """Fit the contract's family, uncalibrated; see `Family.fit`.

    Classes are not reweighted: that would spoil the calibration.
    """
    native = family_of(contract.family).fit(contract, train, validation, config, report)
    return Booster(native, contract, config.threads)


def load_booster(file: Path, contract: ModelContract, threads: int = 0) -> Booster:
    """Load a booster's file, in its library's own format.

    Raises:
        NextbuyError: the contract's family is unknown, or the booster has other columns than it.
    """
    native = family_of(contract.family).load(file, contract, threads)
    return Booster(native, contract, threads)
