"""Calibration on a time slice of its own: what the booster says, and what then happened."""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from nextbuy.contract import Calibration, log_odds

FEWEST_POSITIVES = 30
"""Below this, two parameters would follow noise."""


def calibrate(labels: NDArray[np.int8], probability: NDArray[np.float64]) -> Calibration:
    """Platt's two parameters by maximum likelihood (`docs/decisions/014-calibration.md`).

    The identity where there are too few positives, or where the booster ranks the slice no better
    than chance: a falling curve would turn the ranking round.

    Args:
        labels: of the calibration slice, shape (rows,).
        probability: the booster's, shape (rows,).
    """
    if min(labels.sum(), len(labels) - labels.sum()) < FEWEST_POSITIVES:
        return Calibration()
    fitted = LogisticRegression(C=np.inf).fit(log_odds(probability)[:, None], labels)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return Calibration(slope=slope, intercept=intercept) if slope > 0 else Calibration()
