"""Scores to compare a model with: single rules, a logistic regression, time and position alone."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer

from nextbuy.contract import ModelContract
from nextbuy.features.columns import (
    ENTRY_HOUR,
    ENTRY_WEEKDAY,
    FIRST_POSITION,
    IS_IN_CART,
    ITEM_PURCHASES_30D,
    SECONDS_SINCE_TOUCH,
    USER_ITEM_VIEWS,
)

RULES = {
    "popularity": (ITEM_PURCHASES_30D, 1),
    "last touched": (SECONDS_SINCE_TOUCH, -1),
    "was in the cart": (IS_IN_CART, 1),
    "views of the pair": (USER_ITEM_VIEWS, 1),
}
"""Name -> the feature it ranks by, and in which direction. Ranks only: no probabilities."""


def rule_scores(table: pa.Table) -> dict[str, NDArray[np.float64]]:
    """Score of each rule whose feature the log supports, shape (rows,)."""
    scores = {}
    for name, (feature, sign) in RULES.items():
        if feature in table.column_names:
            values = table[feature].cast(pa.float64(), safe=False).to_numpy()
            lowest = np.nanmin(values) if np.isfinite(values).any() else 0.0
            scores[name] = sign * np.nan_to_num(values, nan=lowest)
    return scores


LOGISTIC_ROWS = 200_000
"""Rows that the logistic regression learns from, and scores at a time."""
TIME_AND_POSITION = (ENTRY_HOUR, ENTRY_WEEKDAY, FIRST_POSITION)
"""Features that say when and where in its session a row stands, and nothing of shopper or item."""


def time_and_position_scores(
    contract: ModelContract, train: pa.Table, labels: NDArray[np.int8], test: pa.Table
) -> NDArray[np.float64]:
    """Probabilities of a model that sees time and position only.

    If they come near the full model's, the rows were sampled so that their place in time gives the
    label away.
    """
    names = [name for name in TIME_AND_POSITION if name in contract.features]
    model = HistGradientBoostingClassifier(max_depth=4, random_state=7)
    narrow = contract.model_copy(update={"features": tuple(names)})
    model.fit(narrow.matrix(train), labels)
    return np.asarray(model.predict_proba(narrow.matrix(test))[:, 1], np.float64)


def logistic_scores(
    contract: ModelContract, train: pa.Table, labels: NDArray[np.int8], test: pa.Table
) -> NDArray[np.float64]:
    """Probabilities of a logistic regression on the ranks of the numeric features.

    It learns from `LOGISTIC_ROWS` rows at most, evenly spread: a line through a hundred features
    gains nothing from more, and its steps hold four copies of what they are given.
    """
    narrow = contract.model_copy(
        update={"features": tuple(f for f in contract.features if f not in contract.categories)}
    )
    step = -(-train.num_rows // LOGISTIC_ROWS)
    sample = train.take(pa.array(range(0, train.num_rows, step)))
    model = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        QuantileTransformer(n_quantiles=200, subsample=50_000, random_state=7),
        LogisticRegression(C=0.1, max_iter=500),
    )
    model.fit(narrow.matrix(sample), labels[::step])
    matrix = narrow.matrix(test)
    parts = np.array_split(matrix, -(-len(matrix) // LOGISTIC_ROWS))
    scores = [model.predict_proba(part)[:, 1] for part in parts]
    return np.asarray(np.concatenate(scores), np.float64)
