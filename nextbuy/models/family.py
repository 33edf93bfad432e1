"""What a model family is: the functions that fit, log, load, score and explain its boosters.

A family is one module with these functions, registered under its name in
`nextbuy.models.families.FAMILIES`. Its library is imported inside the functions, so that a service
loads the library of the model that it serves and no other.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from nextbuy.contract import ModelContract
from nextbuy.errors import NextbuyError

Matrix = NDArray[np.float32]
"""Encoded by a contract, shape (rows, features)."""
Vector = NDArray[np.float64]
Labelled = tuple[Matrix, NDArray[np.int8]]
"""A matrix and the labels of its rows, shape (rows,)."""
Report = Callable[[int, float], None]
"""(trees so far, validation log-loss)."""


class ModelConfig(BaseModel):
    """What the families share; their words differ, the meaning does not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 7
    rounds: int = Field(default=3_000, ge=1)
    """Trees at most; the validation split decides how many."""
    patience: int = Field(default=100, ge=1)
    """Rounds without a better validation log-loss after which fitting stops."""
    learning_rate: float = Field(default=0.03, gt=0)
    depth: int = Field(default=3, ge=1)
    min_child_rows: int = Field(default=40, ge=1)
    row_share: float = Field(default=0.8, gt=0, le=1)
    column_share: float = Field(default=0.5, gt=0, le=1)
    l2: float = Field(default=5.0, ge=0)
    max_categories: int = Field(default=200, ge=1)
    """Values of a categorical feature that get a code, the most frequent first."""
    threads: int = Field(default=2, ge=1)
    """Part of the result: sums in another order differ in the last digit."""


class Family(Protocol):
    """The functions of a family's module; `booster` is the library's own object."""

    def fit(
        self,
        contract: ModelContract,
        train: Labelled,
        validation: Labelled,
        config: ModelConfig,
        report: Report | None,
    ) -> Any:
        """Fit a booster whose prediction is the probability of label 1.

        Args:
            contract: names the columns and which of them are categorical.
            train: rows to learn from.
            validation: rows of a later time, which stop the fit.
            config: parameters.
            report: called with the validation log-loss after each tree; an exception that it
                raises ends the fit.
        """
        ...

    def log(self, booster: Any, **options: Any) -> Any:
        """Log the booster with MLflow in the active run, and return MLflow's description of it.

        The MLmodel file must hold a flavor of the family's name with the path `data` of a file
        that `load` reads; `options` are those of `mlflow.models.Model.log`.
        """
        ...

    def load(self, file: Path, contract: ModelContract, threads: int) -> Any:
        """Load a booster's file for scoring on so many threads (0: all cores).

        Raises:
            NextbuyError: its columns are not the contract's (see `check_columns`).
        """
        ...

    def predict(self, booster: Any, matrix: Matrix, threads: int) -> NDArray[Any]:
        """Probabilities of label 1 before calibration, shape (rows,)."""
        ...

    def explain(self, booster: Any, matrix: Matrix, threads: int) -> NDArray[Any]:
        """What each feature adds to the log-odds, exactly, shape (rows, features)."""
        ...


def check_columns(contract: ModelContract, count: int, names: Sequence[str] | None) -> None:
    """Compare a booster's columns with its contract; `names` is None where it keeps none.

    Raises:
        NextbuyError: they differ.
    """
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
