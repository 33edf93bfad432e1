"""How good a score is early in a session: after its first events, before the rest has come."""

from collections.abc import Collection
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore

from nextbuy.connection import duckdb_connection
from nextbuy.features import supported_tables
from nextbuy.models.booster import Booster
from nextbuy.settings import Settings
from nextbuy.shop import SessionConfig, shop_settings
from nextbuy.sql import read_parquet
from nextbuy.tables.feature_sql import definition_clock, feature_rows
from nextbuy.tables.identity import find_links, linkable_session_events, linked_users_sql
from nextbuy.tables.sessions import SESSION_EVENTS
from nextbuy.times import END_OF_TIME_US
from nextbuy.versioned_table import Manifest, files, manifest
from training.dataset import sample_of
from training.metrics import RANKING, Vector, paired_difference, with_intervals

LENGTHS = (1, 2, 5, 10)
"""Numbers of events after which the score is measured."""
SHOPPERS = 3_000
"""Sessions measured, at most: the last test session of so many shoppers."""
METRICS = {name: RANKING[name] for name in ("pr_auc", "roc_auc")}
COPY = "{} || ' ' || length"
KEYS = ("user_id", "item_id", "event_timestamp")


def value_at_prefix(
    settings: Settings, booster: Booster, test: pa.Table, scored: Vector
) -> dict[str, dict[str, Any]] | None:
    """Score the items touched by the first events of a session, as if it had ended there.

    One test session a shopper, the last, so that no cut changes the past of another one. The label
    is that of the full session, so the rows are also those of which the full session's score is
    known: `difference` is what the score gains (paired, then minus now) until the session ends.

    Args:
        settings: where things are.
        booster: of the model.
        test: the test rows.
        scored: the model's probabilities of them, shape (rows,).

    Returns:
        number of events -> `{"rows", "positives", "metrics", "at_end", "difference"}`; None where
        there are no sessions to cut.
    """
    sessions = manifest(settings.sessions)
    if sessions is None:
        return None
    candidates = pa.table(
        {
            **{name: test[name] for name in (*KEYS, "label")},
            "at_end": scored,
        }
    )
    results = {}
    for length in LENGTHS:  # one after the other: each holds a copy of the shoppers' history
        with duckdb_connection(settings) as connection:
            rows = rows_after(
                connection, settings, sessions, candidates, booster.contract.features, [length]
            )[length]
        sample = sample_of(rows)
        if not sample.has_both_classes:
            continue
        now = booster.score(rows)
        then = np.asarray(rows["at_end"].to_numpy(), np.float64)
        results[str(length)] = {
            "rows": rows.num_rows,
            "positives": int(sample.labels.sum()),
            "metrics": with_intervals(sample.labels, now, sample.users, METRICS),
            "at_end": with_intervals(sample.labels, then, sample.users, METRICS),
            "difference": paired_difference(sample, then, now, RANKING["pr_auc"]),
        }
    return results


def rows_after(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    sessions: Manifest,
    candidates: pa.Table,
    features: Collection[str],
    lengths: Collection[int],
) -> dict[int, pa.Table]:
    """The items touched by the first events of the chosen sessions, with their features then.

    What follows from the shopper's events is computed by the definitions from the cut history; the
    rest was known at that moment and comes from Feast.

    Args:
        connection: with nothing in it.
        settings: where things are.
        sessions: manifest of the published ones.
        candidates: `KEYS`, `label` and `at_end` of the sessions that may be chosen.
        features: full names.
        lengths: numbers of events.

    Returns:
        length -> `KEYS` (the moment of the last of these events), `label`, `at_end`, the features.
    """
    connection.register("candidates", candidates)
    connection.register("lengths", pa.table({"length": pa.array(lengths, pa.int64())}))
    first_events = _cut(connection, settings, sessions, "candidates")
    rows = connection.sql(
        f"""
        SELECT f.length, f.user_id, f.item_id, stopped AS event_timestamp, label, at_end
        FROM (SELECT length, user_id, ended, item_id FROM {first_events}
              WHERE item_id IS NOT NULL GROUP BY ALL) AS f
        JOIN (SELECT length, user_id, max(event_time) AS stopped FROM {first_events} GROUP BY ALL)
        USING (length, user_id)
        JOIN candidates ON f.user_id = candidates.user_id AND f.item_id = candidates.item_id
            AND ended = candidates.event_timestamp
        ORDER BY ALL
        """
    ).to_arrow_table()
    supported = supported_tables(
        sessions.info["provides"], SessionConfig(**sessions.info["sessions"]).gap_us
    )
    clock = definition_clock(shop_settings(settings).time_zone, sessions)
    own = {table.name: table for table in supported if "user_id" in table.keys}
    columns = [tuple(name.split("__", 1)) for name in features]
    rows = (
        FeatureStore(repo_path=str(settings.feature_repo))
        .get_historical_features(
            entity_df=rows.to_pandas(),
            features=[f"{view}:{name}" for view, name in columns if view not in own],
            full_feature_names=True,
            filter_by_created_timestamp=True,
        )
        .to_arrow()
    )
    for view in dict.fromkeys(view for view, _ in columns if view in own):
        names = ", ".join(f"made.{name} AS {view}__{name}" for v, name in columns if v == view)
        connection.register("so_far", rows)
        rows = connection.sql(
            f"SELECT so_far.*, {names} FROM so_far "
            f"LEFT JOIN ({feature_rows(own[view], END_OF_TIME_US, clock=clock)}) AS made "
            f"ON made.user_id = {COPY.format('so_far.user_id')} "
            + "".join(f"AND made.{k} = so_far.{k} " for k in own[view].keys if k != "user_id")
            + "AND made.event_timestamp = so_far.event_timestamp"
        ).to_arrow_table()
    rows = rows.sort_by([(name, "ascending") for name in KEYS])
    return {n: rows.filter(pc.equal(rows["length"], n)).drop_columns("length") for n in lengths}


def _cut(
    connection: duckdb.DuckDBPyConnection, settings: Settings, sessions: Manifest, candidates: str
) -> str:
    """Table of the first events of sessions: `length`, `ended` and the event, for every length.

    Definitions then read the past of the chosen shoppers and of all whom log-ins link to them.
    Every length has a copy of its own: of all
    people and of all shop sessions, so that one query computes them all.

    Args:
        connection: has the relation `lengths`.
        settings: where things are.
        sessions: manifest of the published ones.
        candidates: name of a relation with their columns; the last session of each shopper is cut.
    """
    published = read_parquet(files(settings.sessions))
    versions = {"new": published} if "login" in sessions.info["provides"] else {}
    max_shoppers = SessionConfig(**sessions.info["sessions"]).max_shoppers
    links = find_links(connection, versions, max_shoppers)
    copied = {
        "user_id": COPY.format("user_id"),
        "source_session_id": COPY.format("source_session_id"),
    }
    copies = f"SELECT * REPLACE ({', '.join(f'{x} AS {n}' for n, x in copied.items())}) FROM cut"
    crowded = (
        f"(SELECT {copied['source_session_id']} AS source_session_id, crowded_us "
        f"FROM {links.crowded} CROSS JOIN lengths)"
    )
    connection.execute(
        f"""
        CREATE TABLE chosen AS
        WITH last AS (
            SELECT user_id, max(event_timestamp) AS ended FROM {candidates} GROUP BY user_id
            ORDER BY md5(user_id) LIMIT {SHOPPERS})
        SELECT user_id, ended, any_value(session_id) AS session_id
        FROM last JOIN {published} AS s USING (user_id) WHERE s.event_time = ended GROUP BY ALL;
        CREATE TABLE people AS
        SELECT user_id FROM ({linked_users_sql("SELECT 0, user_id FROM chosen", links.linked)});
        CREATE TABLE first_events AS
        SELECT length, ended, s.* FROM {published} AS s
        JOIN chosen USING (user_id, session_id) JOIN lengths ON event_number <= length;
        CREATE TABLE cut AS
        FROM (SELECT length, s.* FROM {published} AS s SEMI JOIN people USING (user_id)
              ANTI JOIN chosen USING (user_id, session_id) CROSS JOIN lengths)
        UNION ALL BY NAME SELECT * EXCLUDE ended FROM first_events;
        CREATE VIEW {SESSION_EVENTS.get_name()} AS {linkable_session_events(copies, crowded)}
        """
    )
    return "first_events"
