"""What became of each prediction: bought, not bought, or not known yet."""

from datetime import datetime

import ibis
import pyarrow as pa

from nextbuy.connection import duckdb_connection
from nextbuy.events import EventType
from nextbuy.features.history import linkable
from nextbuy.features.visits import whole_visits
from nextbuy.log_span import LogSpan, wide_holes
from nextbuy.settings import Settings
from nextbuy.shop import LabelConfig, SessionConfig
from nextbuy.sql import read_parquet
from nextbuy.tables.feature_sql import duckdb_sql
from nextbuy.tables.labels import label_rows
from nextbuy.tables.next_sessions import sessions_after
from nextbuy.tables.sessions import SESSION_EVENTS, session_event_columns
from nextbuy.times import to_us
from nextbuy.versioned_table import files, require


def join_outcomes(settings: Settings, predictions: pa.Table, now: datetime) -> pa.Table:
    """Join predictions to what the shopper did in the next session.

    The outcome is the label (`nextbuy.tables.labels`) that the item would have if the shopper's
    session had ended at the moment of the prediction.

    Args:
        settings: where the sessions are.
        predictions: at least `user_id, item_id, predicted_at`.
        now: the moment of the run; it separates `open` from `censored`.

    Returns:
        The predictions, in their order, with `label` (1, 0, null while not known) and `state`:
        `matured` (known), `open` (the horizon still runs), or `censored` (the horizon is over or
        runs into a hole of the log, and the events end before it: ingest what is missing).

    Raises:
        NextbuyError: there are no sessions or labels yet.
    """
    sessions = require(settings.sessions, "nextbuy sessionize")
    labels = require(settings.labels, "nextbuy sessionize")
    config = LabelConfig(**labels.info["labels"])
    span = LogSpan.from_info(sessions.info)
    holes = wide_holes(span.holes, config.horizon_us)
    in_hole = " OR ".join(
        f"(at_us < {before} AND at_us + {config.horizon_us} > {after})" for after, before in holes
    )
    session_config = SessionConfig(**sessions.info["sessions"])
    # Two sessions of one pseudo-shopper follow each other: which they are is found before.
    rows = label_rows(SESSION_EVENTS, span.end_us, session_config, config, holes, has_logins=False)
    with duckdb_connection(settings) as connection:
        connection.register("predictions", predictions)
        published = read_parquet(files(settings.sessions))
        connection.execute(
            f"CREATE TEMP VIEW published_sessions AS SELECT {session_event_columns()} "
            f"FROM {published}"
        )
        history, following = "published_sessions", _NEXT_OF_ID
        if "login" in sessions.info["provides"]:
            history, following = "visits", _NEXT_OF_PERSON
            events = ibis.table(SESSION_EVENTS.schema(), name="published_sessions")
            events = linkable(events, session_config.max_shoppers)
            visits = whole_visits(events, session_config.gap_us)
            requests = ibis.table({"user_id": "string", "at_us": "int64"}, name="asked")
            after = sessions_after(requests, events, session_config.gap_us, config.horizon_us)
            connection.execute(
                "CREATE TEMP VIEW asked AS "
                "SELECT user_id, epoch_us(predicted_at) AS at_us FROM predictions"
            )
            connection.execute(f"CREATE TEMP TABLE after_requests AS {duckdb_sql(after)}")
            connection.execute(
                f"CREATE TEMP TABLE visits AS FROM ({duckdb_sql(visits)}) AS visits "
                "SEMI JOIN after_requests ON visits.user_id = next_user_id "
                "AND visits.session_start_us = next_session_us"
            )
        return connection.sql(
            f"WITH {_SESSION_EVENTS.format(history=history, following=following)}, "
            f"labelled AS ({duckdb_sql(rows)}) "
            "SELECT numbered.* EXCLUDE (number, request, at_us), label, "
            "CASE WHEN label IS NOT NULL THEN 'matured' "
            f"WHEN at_us + {config.horizon_us} <= {to_us(now)} OR ({in_hole or 'false'}) "
            "THEN 'censored' "
            "ELSE 'open' END AS state "
            "FROM numbered LEFT JOIN labelled ON labelled.session_id = 'predicted' "
            "AND request = labelled.user_id AND numbered.item_id = labelled.item_id "
            "ORDER BY number"
        ).to_arrow_table()


_NEXT_OF_ID = """
    SELECT request, session_id, session_start_us
    FROM requests ASOF JOIN (
        SELECT DISTINCT user_id, session_id, session_start_us
        FROM published_sessions SEMI JOIN requests USING (user_id)
    ) AS starts ON requests.user_id = starts.user_id AND requests.at_us < starts.session_start_us
"""
_NEXT_OF_PERSON = """
    SELECT DISTINCT request, session_id, next_start_us AS session_start_us
    FROM requests JOIN after_requests USING (user_id, at_us) JOIN visits
    ON visits.user_id = next_user_id AND visits.session_start_us = next_session_us
"""

_SESSION_EVENTS = f"""
numbered AS (
    SELECT *, row_number() OVER () AS number, epoch_us(predicted_at) AS at_us,
        user_id || '@' || at_us AS request
    FROM predictions
),
requests AS (SELECT DISTINCT request, user_id, at_us FROM numbered),
following AS ({{following}}),
session_events AS MATERIALIZED (
    SELECT DISTINCT request AS user_id, 'predicted' AS session_id, at_us AS session_start_us,
        at_us AS event_us, 1 AS event_number, '{EventType.VIEW}' AS event_type, item_id,
        NULL AS category, false AS is_bot
    FROM numbered
    UNION ALL
    SELECT request, session_id, following.session_start_us, event_us, event_number, event_type,
        item_id, NULL, is_bot
    FROM {{history}} JOIN following USING (session_id)
)"""
"""SQL: each request as a shopper with two sessions, the one predicted for and the one after it.

The first is a view of every predicted item at the moment of the prediction; requests of one shopper
lie between the same sessions, and so must not be the next session of one another.
"""
