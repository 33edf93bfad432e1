"""What became of each prediction: bought, not bought, or not known yet."""

from datetime import datetime

import pyarrow as pa

from nextbuy.connection import duckdb_connection
from nextbuy.events import EventType
from nextbuy.settings import Settings
from nextbuy.sql import read_parquet
from nextbuy.tables.sessions import SessionConfig
from nextbuy.versioned_table import files, require


def judged(settings: Settings, predictions: pa.Table, now: datetime) -> pa.Table:
    """Join predictions to what the shopper did in the next session.

    The same question as the label's (`nextbuy.tables.labels`), asked from the moment of the
    prediction: does the next session start within the horizon, and does it hold a purchase of the
    item?

    Args:
        settings: where the sessions are.
        predictions: at least `user_id, item_id, predicted_at`.
        now: the moment of asking; tells what waits from what was cut off.

    Returns:
        The predictions, in their order, with `label` (1, 0, null while not known) and `state`:
        `matured` (known), `open` (the horizon still runs), or `censored` (the horizon is over, but
        the events end before it: ingest what is missing).

    Raises:
        NextbuyError: there are no sessions or labels yet.
    """
    sessions = require(settings.sessions, "nextbuy sessionize")
    labels = require(settings.labels, "nextbuy sessionize")
    gap_us = SessionConfig(**sessions.info["sessions"]).gap_us
    horizon_us = int(labels.info["labels"]["horizon_days"]) * 86_400_000_000
    newest_us = int(sessions.info["newest_us"])
    now_us = int(now.timestamp() * 1e6)
    with duckdb_connection(settings) as connection:
        connection.register("predictions", predictions)
        source = read_parquet(files(settings.sessions))
        return connection.sql(
            "WITH asked AS (SELECT *, row_number() OVER () AS nr, "
            "epoch_us(predicted_at) AS at_us FROM predictions), "
            "shoppers AS (SELECT DISTINCT user_id FROM predictions), "
            f"seen AS (SELECT * FROM {source} SEMI JOIN shoppers USING (user_id)), "
            "spans AS (SELECT user_id, session_id, epoch_us(min(session_start)) AS start_us, "
            "epoch_us(max(event_time)) AS end_us FROM seen GROUP BY 1, 2), "
            "bought AS (SELECT DISTINCT session_id, item_id FROM seen "
            f"WHERE event_type = '{EventType.PURCHASE}'), "
            "next AS (SELECT asked.*, session_id AS next_id, "
            f"coalesce(start_us - at_us <= {horizon_us}, false) AS comes_back, end_us "
            "FROM asked ASOF LEFT JOIN spans "
            "ON asked.user_id = spans.user_id AND asked.at_us < spans.start_us), "
            "known AS (SELECT next.*, bought.item_id IS NOT NULL AS is_bought, "
            f"CASE WHEN comes_back THEN end_us + {gap_us} ELSE at_us + {horizon_us} END "
            "AS known_us "
            "FROM next LEFT JOIN bought "
            "ON next_id = bought.session_id AND next.item_id = bought.item_id) "
            "SELECT * EXCLUDE (nr, at_us, next_id, comes_back, end_us, is_bought, known_us), "
            f"CASE WHEN known_us <= {newest_us} "
            "THEN CAST(comes_back AND is_bought AS TINYINT) END AS label, "
            f"CASE WHEN known_us <= {newest_us} THEN 'matured' "
            f"WHEN at_us + {horizon_us} <= {now_us} THEN 'censored' ELSE 'open' END AS state "
            "FROM known ORDER BY nr"
        ).to_arrow_table()
