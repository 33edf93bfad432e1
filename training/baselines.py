"""Scores anyone could make without a model. They stand in the same table, always."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import QuantileTransformer

from nextbuy.contract import ModelContract

RULES = {
    "popularity": ("item__n_purchases_30d", 1),
    "last touched": ("user_item__seconds_since_touch", -1),
    "was in the cart": ("user_item__is_in_cart", 1),
    "views of the pair": ("user_item__n_views", 1),
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


ANCHORS = ("session__entry_hour", "session__entry_weekday", "user_item__first_position_session")
"""Time and position of a row: what a model may learn from without knowing shopper or item."""


def anchor_scores(
    contract: ModelContract, train: pa.Table, labels: NDArray[np.int8], test: pa.Table
) -> NDArray[np.float64]:
    """Probabilities of a model that sees time and position only.

    One that comes near the full model says that the rows were sampled so that their place in time
    gives the label away.
    """
    kept = [name for name in ANCHORS if name in contract.features]
    model = HistGradientBoostingClassifier(max_depth=4, random_state=7)
    seen = contract.model_copy(update={"features": tuple(kept)})
    model.fit(seen.matrix(train), labels)
    return np.asarray(model.predict_proba(seen.matrix(test))[:, 1], np.float64)


def logistic_scores(
    contract: ModelContract, train: pa.Table, labels: NDArray[np.int8], test: pa.Table
) -> NDArray[np.float64]:
    """Probabilities of a logistic regression on the ranks of the numeric features."""
    numeric = [i for i, f in enumerate(contract.features) if f not in contract.categories]
    model = make_pipeline(
        SimpleImputer(strategy="median", keep_empty_features=True),
        QuantileTransformer(n_quantiles=200, subsample=50_000, random_state=7),
        LogisticRegression(C=0.1, max_iter=500),
    )
    model.fit(contract.matrix(train)[:, numeric], labels)
    return np.asarray(model.predict_proba(contract.matrix(test)[:, numeric])[:, 1], np.float64)
