"""What must hold of the prediction log."""

from datetime import datetime, timedelta

from monitoring.rules import (
    Rule,
    one_row_per,
    present,
    query_rule,
    row_rule,
    schema_types,
    shape_rules,
)
from nextbuy.prediction_log import PREDICTION_SCHEMA

LOOK = "Look at the service's log; restart it with the current champion: nextbuy serve"

LATER = ("read_at", "has_context")
"""Columns that older logs lack."""


def prediction_rules(now: datetime) -> list[Rule]:
    """The suite of `predictions/`; `now` is the moment against which the future is told."""
    latest = (now + timedelta(hours=1)).isoformat()
    return [
        *shape_rules(schema_types(PREDICTION_SCHEMA), later=LATER),
        row_rule(
            "comparable_live",
            LATER,
            "read_at IS NULL AND NOT is_shadow",
            "Logged by an older service: parity passes over these rows, the rest of monitoring "
            "does not. Serve with the current code: nextbuy serve",
            severity="warn",
        ),
        *(present(name, LOOK) for name in ("request_id", "user_id", "item_id", "model")),
        row_rule(
            "probability_in_bounds",
            "probability",
            "probability IS NULL OR isnan(probability) OR probability < 0 OR probability > 1",
            LOOK,
        ),
        row_rule("rank_from_1", "rank", "rank IS NULL OR rank < 1", LOOK),
        row_rule(
            "predicted_in_the_past",
            "predicted_at",
            f"predicted_at IS NULL OR predicted_at > TIMESTAMPTZ '{latest}'",
            "Set the clock of the serving machine.",
        ),
        one_row_per(("request_id", "user_id", "item_id", "is_shadow"), LOOK),
        query_rule(
            "vector_length",
            ("model", "vector"),
            "SELECT model, min(len(vector)) AS shortest, max(len(vector)) AS longest "
            "FROM {batch} GROUP BY model HAVING shortest <> longest",
            LOOK,
        ),
        row_rule(
            "not_degraded",
            "is_degraded",
            "is_degraded",
            "The service answered without Redis in time: look at Redis and at its load.",
            severity="warn",
            tolerance=0.05,
        ),
        query_rule(
            "scores_differ",
            ("model", "probability"),
            "SELECT model, count(*) AS n FROM {batch} GROUP BY model "
            "HAVING n >= 100 AND count(DISTINCT probability) = 1",
            "A model that answers all alike sees nothing: are the features materialized?",
            "warn",
        ),
    ]
