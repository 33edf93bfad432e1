"""Runs the definitions on DuckDB and publishes what they give, table by table.

A table is left as it is when neither its input nor its definition has changed.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir

from nextbuy.engine import duckdb_engine
from nextbuy.events import EVENT_SCHEMA
from nextbuy.features import TABLES, FeatureTable
from nextbuy.labels import LabelConfig, label_rows
from nextbuy.sessions import EVENTS, SESSION_EVENTS, SessionConfig, sessionize
from nextbuy.settings import Settings
from nextbuy.storage import Manifest, files, fingerprint, manifest, new_version, require

CODE = Path(__file__).parent
THIS = CODE / "tables.py"

Done = Callable[[str, int, bool], None]
"""Told of each table: its name, its rows, whether it was built (or was up to date)."""

SQL_TYPES = {
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "string": "VARCHAR",
    "boolean": "BOOLEAN",
    "array<string>": "VARCHAR[]",
}
"""Feature dtype -> what is written; sums of 64-bit integers come back wider than that."""


def build_sessions(settings: Settings, config: SessionConfig, done: Done) -> None:
    """Write `sessions/`: every event with its session, by the event's day.

    Raises:
        NextbuyError: there are no events yet.
    """
    events = require(settings.events, "nextbuy ingest LOG --source configs/sources/NAME.yaml")
    inputs = fingerprint(events.fingerprint, config.model_dump(), CODE / "sessions.py", THIS)
    if _is_current(settings.sessions, inputs, done):
        return
    names = ", ".join(name for name in EVENT_SCHEMA.names if name != "event_time")
    with duckdb_engine(settings) as engine:
        engine.execute(
            f"CREATE VIEW events AS SELECT {names}, epoch_us(event_time) AS event_us "
            f"FROM read_parquet('{files(settings.events)}')"
        )
        engine.execute(
            f"CREATE TABLE result AS SELECT {names}, make_timestamptz(event_us) AS event_time, "
            "session_id, make_timestamptz(session_start_us) AS session_start, event_number, is_bot "
            f"FROM ({_sql(sessionize(EVENTS, config))})"
        )
        newest_us = _one(engine, "SELECT epoch_us(max(event_time)) FROM result")
        info = {**events.info, "sessions": config.model_dump(), "newest_us": newest_us}
        order = ["user_id", "event_time", "event_id"]
        _publish(engine, settings.sessions, inputs, "event_time", order, info, done)


def build_features(settings: Settings, done: Done, only: Collection[str] = ()) -> None:
    """Write each feature table to `features/<name>/`, by the day of its event timestamp.

    A feature that the log cannot support is left out, and a table left without features with it.

    Args:
        settings: where things are.
        done: told of every table.
        only: names of the tables to build; empty for all.

    Raises:
        NextbuyError: there are no sessions yet.
    """
    sessions = require(settings.sessions, "nextbuy sessionize")
    for table in (table.given(sessions.info["provides"]) for table in TABLES):
        if not table.features or (only and table.name not in only):
            continue
        inputs = fingerprint(
            sessions.fingerprint,
            [feature.name for feature in table.features],
            CODE / "features",
            THIS,
        )
        target = settings.features / table.name
        if _is_current(target, inputs, done):
            continue
        expression = table.build(SESSION_EVENTS, sessions.info["newest_us"])
        with duckdb_engine(settings) as engine:
            _read_sessions(engine, settings)
            engine.execute(f"CREATE TABLE result AS {_feature_rows(table, expression)}")
            order = ["event_timestamp", *table.keys]
            _publish(engine, target, inputs, "event_timestamp", order, {}, done)


def build_labels(settings: Settings, config: LabelConfig, done: Done) -> None:
    """Write `labels/`: one row per shopper and item touched in a session, by the session's end.

    Raises:
        NextbuyError: there are no sessions yet.
    """
    sessions = require(settings.sessions, "nextbuy sessionize")
    inputs = fingerprint(sessions.fingerprint, config.model_dump(), CODE / "labels.py", THIS)
    if _is_current(settings.labels, inputs, done):
        return
    newest_us = sessions.info["newest_us"]
    session_config = SessionConfig(**sessions.info["sessions"])
    expression = label_rows(SESSION_EVENTS, newest_us, session_config, config)
    with duckdb_engine(settings) as engine:
        _read_sessions(engine, settings)
        engine.execute(
            "CREATE TABLE result AS SELECT user_id, item_id, session_id, category, "
            "make_timestamptz(event_us) AS event_timestamp, "
            "make_timestamptz(next_start_us) AS next_session_start, "
            f"make_timestamptz(known_us) AS known_at, label FROM ({_sql(expression)})"
        )
        info = {"labels": config.model_dump(), "newest_us": newest_us}
        order = ["event_timestamp", "user_id", "item_id"]
        _publish(engine, settings.labels, inputs, "event_timestamp", order, info, done)


def _is_current(target: Path, inputs: str, done: Done) -> bool:
    current: Manifest | None = manifest(target)
    if current is None or current.inputs != inputs:
        return False
    done(target.name, current.rows, False)
    return True


def _read_sessions(engine: duckdb.DuckDBPyConnection, settings: Settings) -> None:
    names = ", ".join(name for name in EVENT_SCHEMA.names if name != "event_time")
    engine.execute(
        f"CREATE VIEW session_events AS SELECT {names}, epoch_us(event_time) AS event_us, "
        "session_id, epoch_us(session_start) AS session_start_us, event_number, is_bot "
        f"FROM read_parquet('{files(settings.sessions)}')"
    )


def _feature_rows(table: FeatureTable, expression: ir.Table) -> str:
    """Feast's layout: keys, both timestamps, features.

    A batch row is computed from what was known at its event timestamp, so that is also the moment
    from which it could have been created.
    """
    features = (
        f'CAST("{feature.name}" AS {SQL_TYPES[feature.dtype]}) AS "{feature.name}"'
        for feature in table.features
    )
    stamp = "make_timestamptz(event_us)"
    columns = [*table.keys, f"{stamp} AS event_timestamp", f"{stamp} AS created_timestamp"]
    return f"SELECT {', '.join([*columns, *features])} FROM ({_sql(expression)})"


def _publish(
    engine: duckdb.DuckDBPyConnection,
    target: Path,
    inputs: str,
    day: str,
    order_by: Sequence[str],
    info: dict[str, object],
    done: Done,
) -> None:
    with new_version(target, inputs, info) as version:
        version.write_days(engine, "result", day, order_by)
    rows = _one(engine, "SELECT count(*) FROM result")
    done(target.name, rows, True)


def _one(engine: duckdb.DuckDBPyConnection, sql: str) -> int:
    ((value,),) = engine.execute(sql).fetchall()  # DuckDB 2.0 wants a result read to its end
    return int(value)


def _sql(expression: ir.Table) -> str:
    return str(ibis.to_sql(expression, dialect="duckdb"))
