"""Fits the calibration of a booster, on a time slice of its own."""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from nextbuy.contract import Calibration, log_odds

MIN_POSITIVES_TO_CALIBRATE = 30
"""Below this, two parameters would follow noise."""


def calibrate(labels: NDArray[np.int8], probability: NDArray[np.float64]) -> Calibration:
    """Platt's two parameters by maximum likelihood (`docs/decisions/014-calibration.md`).

    The identity where there are too few positives, or where the booster ranks the slice no better
    than chance: a falling curve would turn the ranking round.

    Args:
        labels: of the calibration slice, shape (rows,).
        probability: the booster's, shape (rows,).
    """
    if min(labels.sum(), len(labels) - labels.sum()) < MIN_POSITIVES_TO_CALIBRATE:
        return Calibration()
    fitted = LogisticRegression(C=np.inf).fit(log_odds(probability)[:, None], labels)
    slope, intercept = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return Calibration(slope=slope, intercept=intercept) if slope > 0 else Calibration()
