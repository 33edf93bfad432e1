"""What must hold of the prediction log."""

from datetime import datetime, timedelta

from monitoring.rules import (
    Check,
    Scope,
    one_row_per,
    present,
    query_check,
    row_check,
    schema_types,
    shape_checks,
)
from nextbuy.prediction_log import PREDICTION_SCHEMA

LOOK = "Look at the service's log; restart it with the current champion: nextbuy serve"

MIN_ANSWERS = 100
"""Predictions of a model that may be equal by chance."""

LATER = ("read_at", "has_context")
LATER_STILL = ("as_of", "state", "touched_at")
"""Columns that older logs lack."""


def prediction_checks(now: datetime) -> list[Check]:
    """The suite of `predictions/`; later times than `now` are in the future."""
    latest = (now + timedelta(hours=1)).isoformat()
    return [
        *shape_checks(schema_types(PREDICTION_SCHEMA), later=(*LATER, *LATER_STILL)),
        row_check(
            "comparable_live",
            LATER,
            "read_at IS NULL AND NOT is_shadow",
            "Logged by an older service: parity passes over these rows, the rest of monitoring "
            "does not. Serve with the current code: nextbuy serve",
            severity="warn",
        ),
        *(present(name, LOOK) for name in ("request_id", "user_id", "item_id", "model")),
        row_check(
            "probability_in_bounds",
            "probability",
            "probability IS NULL OR isnan(probability) OR probability < 0 OR probability > 1",
            LOOK,
        ),
        row_check("rank_from_1", "rank", "rank IS NULL OR rank < 1", LOOK),
        row_check(
            "predicted_in_the_past",
            "predicted_at",
            f"predicted_at IS NULL OR predicted_at > TIMESTAMPTZ '{latest}'",
            "Set the clock of the serving machine.",
        ),
        one_row_per(("request_id", "user_id", "item_id", "is_shadow"), LOOK),
        query_check(
            "vector_length",
            ("model", "vector"),
            "SELECT model, min(len(vector)) AS shortest, max(len(vector)) AS longest "
            "FROM {batch} GROUP BY model HAVING shortest <> longest",
            LOOK,
        ),
        row_check(
            "not_degraded",
            "is_degraded",
            "is_degraded",
            "The service answered without Redis in time: look at Redis and at its load.",
            severity="warn",
            tolerance=0.05,
        ),
        query_check(
            "scores_differ",
            ("model", "probability"),
            "SELECT model, count(*) AS n FROM {batch} GROUP BY model "
            f"HAVING n >= {MIN_ANSWERS} AND count(DISTINCT probability) = 1",
            "A model that answers all alike sees nothing: are the features materialized?",
            "warn",
            Scope(
                f"SELECT count(*) FILTER (n >= {MIN_ANSWERS}), count(*), "
                f"format('{{:,}} predictions of a model, it takes {MIN_ANSWERS}', max(n)) "
                "FROM (SELECT count(*) AS n FROM {batch} GROUP BY model)",
                "models",
            ),
        ),
    ]
