"""Runs the definitions on DuckDB and publishes what they give, table by table.

A table is left as it is when neither its input nor its definition has changed, and goes on from
its last version when only the input has (`nextbuy.tables.incremental`). Both give the same bytes.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import duckdb
import ibis
import ibis.expr.types as ir

from nextbuy.connection import duckdb_connection
from nextbuy.events import EVENT_SCHEMA
from nextbuy.features import TABLES, FeatureTable
from nextbuy.features.daily import REACH_DAYS
from nextbuy.settings import Settings
from nextbuy.sql import read_parquet
from nextbuy.tables.incremental import (
    SessionChange,
    differing,
    find_affected,
    find_moved,
    iso,
    session_change,
    session_event_columns,
)
from nextbuy.tables.labels import LabelConfig, label_rows
from nextbuy.tables.partitions import Buckets
from nextbuy.tables.sessions import EVENTS, SESSION_EVENTS, SessionConfig, sessionize
from nextbuy.tables.spark import Run
from nextbuy.tables.target import Done, Gate, Target
from nextbuy.times import DAY
from nextbuy.versioned_table import Manifest, files, fingerprint, manifest, read_days, require

CODE = Path(__file__).parent
FEATURES = CODE.parent / "features"
ENGINE = tuple(CODE / f"{name}.py" for name in ("build", "incremental", "partitions", "target"))

SQL_TYPES = {
    "int64": "BIGINT",
    "float64": "DOUBLE",
    "string": "VARCHAR",
    "boolean": "BOOLEAN",
    "array<string>": "VARCHAR[]",
}
"""Feature dtype -> what is written; sums of 64-bit integers come back wider than that."""

OF_AFFECTED = "user_id IN (SELECT user_id FROM affected)"


def build_sessions(
    settings: Settings,
    config: SessionConfig,
    done: Done,
    *,
    run: Run | None = None,
    gate: Gate | None = None,
) -> None:
    """Write `sessions/`: every event with its session, by the event's day.

    `run` computes them whole elsewhere (`nextbuy.tables.spark`); DuckDB still publishes them.

    Raises:
        NextbuyError: there are no events yet, or the gate keeps the sessions out.
    """
    events = require(settings.events, "nextbuy ingest LOG --source configs/sources/NAME.yaml")
    target = Target(
        settings.sessions,
        events,
        fingerprint(config.model_dump(), CODE / "sessions.py", *ENGINE),
        "event_time",
        ("user_id", "event_time", "event_id"),
        {**events.info, "sessions": config.model_dump()},
    )
    if target.is_current(done):
        return
    names = ", ".join(name for name in EVENT_SCHEMA.names if name != "event_time")
    read = f"SELECT {names}, epoch_us(event_time) AS event_us FROM"
    everything = read_parquet(files(settings.events))
    rows = sessionize(EVENTS, config)
    form = (
        f"SELECT {names}, make_timestamptz(event_us) AS event_time, session_id, "
        "make_timestamptz(session_start_us) AS session_start, "
        "event_number::BIGINT AS event_number, is_bot FROM {}"
    )
    with duckdb_connection(settings) as connection, target.next_version(done, gate) as version:
        last = target.last(version)
        target.info["newest_us"] = _one(
            connection, f"SELECT epoch_us(max(event_time)) FROM {everything}"
        )
        if run is not None:
            target.write_whole(connection, version, form.format(_computed(run, rows, "sessions")))
            return
        sql = form.format(f"({_sql(rows)})")
        if last is None:
            connection.execute(f"CREATE VIEW events AS {read} {everything}")
            target.write_whole(connection, version, sql)
            return
        gone, come = differing(last.made_from, events.days)
        first_us, _ = find_moved(
            connection,
            f"({read} {read_days(settings.sessions, gone)})",
            f"({read} {read_days(settings.events, come)})",
        )
        connection.execute(
            f"CREATE TABLE events AS {read} {everything} SEMI JOIN moved USING (user_id)"
        )
        connection.execute("CREATE TABLE affected AS SELECT user_id FROM moved")
        from_us = (target.info["newest_us"] if first_us is None else first_us) // DAY * DAY
        target.write_part(connection, version, sql, OF_AFFECTED, from_us)


def build_features(
    settings: Settings,
    done: Done,
    only: Collection[str] = (),
    *,
    run: Run | None = None,
    gate: Gate | None = None,
) -> None:
    """Write each feature table to `features/<name>/`, by the day of its event timestamp.

    A feature that the log cannot support is left out, and a table left without features with it.

    Args:
        settings: where things are.
        done: told of every table.
        only: names of the tables to build; empty for all.
        run: computes each table whole elsewhere (`nextbuy.tables.spark`); DuckDB still publishes.
        gate: called before each table is published.

    Raises:
        NextbuyError: there are no sessions yet, another run builds large tables, or the gate
            keeps a table out; those before it are published then.
    """
    sessions = require(settings.sessions, "nextbuy sessionize")
    newest_us = sessions.info["newest_us"]
    with (
        duckdb_connection(settings) as connection,
        Buckets(connection, settings, sessions) as buckets,
    ):
        changes = _Changes(connection, settings, sessions)
        for table in feature_tables(sessions):
            if only and table.name not in only:
                continue
            target = Target(
                settings.features / table.name,
                sessions,
                fingerprint([f.name for f in table.features], FEATURES, *ENGINE),
                "event_timestamp",
                ("event_timestamp", *table.keys),
            )
            if target.is_current(done):
                continue
            with target.next_version(done, gate) as version:
                last = target.last(version)
                change = changes.since(last) if last and run is None else None
                if run is not None:
                    rows = _computed(run, table.build(SESSION_EVENTS), table.name)
                    target.write_whole(connection, version, _published_form(table, rows, newest_us))
                elif change is None:
                    sql = feature_rows(table, newest_us)
                    target.write_whole(connection, version, sql, buckets.read(table))
                elif "user_id" in table.keys:
                    changes.gather(change)
                    connection.execute(
                        "CREATE OR REPLACE VIEW session_events AS FROM affected_events"
                    )
                    _ask_from(connection, change.rows_from_us)
                    sql = feature_rows(table, newest_us, part=True)
                    target.write_part(connection, version, sql, OF_AFFECTED, change.rows_from_us)
                else:
                    _read_recent(connection, settings, target, table, sessions, change)
                    _ask_from(connection, change.midnights_from_us)
                    sql = feature_rows(table, newest_us, part=True)
                    target.write_part(connection, version, sql, "true", change.midnights_from_us)


def feature_tables(sessions: Manifest) -> list[FeatureTable]:
    """The tables that these sessions can support, with the features that they can."""
    given = (table.supported_by(sessions.info["provides"]) for table in TABLES)
    return [table for table in given if table.features]


def build_labels(
    settings: Settings,
    config: LabelConfig,
    done: Done,
    *,
    run: Run | None = None,
    gate: Gate | None = None,
) -> None:
    """Write `labels/`: one row per shopper and item touched in a session, by the session's end.

    `run` computes them whole elsewhere (`nextbuy.tables.spark`); DuckDB still publishes them.

    Raises:
        NextbuyError: there are no sessions yet, or the gate keeps the labels out.
    """
    sessions = require(settings.sessions, "nextbuy sessionize")
    newest_us = sessions.info["newest_us"]
    session_config = SessionConfig(**sessions.info["sessions"])
    target = Target(
        settings.labels,
        sessions,
        fingerprint(config.model_dump(), session_config.model_dump(), CODE / "labels.py", *ENGINE),
        "event_timestamp",
        ("event_timestamp", "user_id", "item_id"),
        {"labels": config.model_dump(), "newest_us": newest_us},
    )
    if target.is_current(done):
        return
    rows = label_rows(SESSION_EVENTS, newest_us, session_config, config)
    form = (
        "SELECT user_id, item_id, session_id, category, "
        "make_timestamptz(event_us) AS event_timestamp, "
        "make_timestamptz(next_start_us) AS next_session_start, "
        "make_timestamptz(known_us) AS known_at, label FROM {}"
    )
    with duckdb_connection(settings) as connection, target.next_version(done, gate) as version:
        if run is not None:
            target.write_whole(connection, version, form.format(_computed(run, rows, "labels")))
            return
        sql = form.format(f"({_sql(rows)})")
        last = target.last(version)
        change = session_change(connection, settings, sessions, last) if last else None
        if last is None or change is None:
            _read_sessions(connection, settings, sessions.days)
            target.write_whole(connection, version, sql)
            return
        # A label also changes by time alone, once the newest event passes the moment it ripens.
        newest = sorted((change.old_newest_us, newest_us))
        connection.execute(
            "CREATE TABLE maturing AS SELECT user_id, epoch_us(event_timestamp) AS event_us "
            f"FROM {read_days(settings.labels, last.days)} "
            f"WHERE epoch_us(known_at) > {newest[0]} AND epoch_us(known_at) <= {newest[1]}"
        )
        connection.execute(
            "CREATE TABLE affected AS SELECT user_id FROM moved UNION SELECT user_id FROM maturing"
        )
        # A label looks one horizon ahead, at sessions that start by then: nothing older moves.
        first_us = _one(
            connection,
            f"SELECT coalesce(min(event_us), {newest_us}) FROM (SELECT event_us FROM maturing "
            f"UNION ALL SELECT moment_us - {config.horizon_us} FROM moved)",
        )
        from_us = first_us // DAY * DAY
        days = [day for day in sessions.days if day >= iso(from_us)]
        # A session that ends from then on may have begun earlier.
        start_us = _one(
            connection,
            f"SELECT coalesce(min(epoch_us(session_start)), {from_us}) "
            f"FROM {read_days(settings.sessions, days)} SEMI JOIN affected USING (user_id)",
        )
        days = [day for day in sessions.days if day >= iso(start_us)]
        begun = f"SEMI JOIN affected USING (user_id) WHERE epoch_us(session_start) >= {start_us}"
        _read_sessions(connection, settings, days, begun)
        target.write_part(connection, version, sql, OF_AFFECTED, from_us)


class _Changes:
    """What moved since the sessions that a table was made from, found once per such state."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, settings: Settings, sessions: Manifest
    ) -> None:
        self._connection, self._settings, self._sessions = connection, settings, sessions
        self._made_from: dict[str, str] = {}
        self._change: SessionChange | None = None
        self._gathered: SessionChange | None = None

    def since(self, last: Manifest) -> SessionChange | None:
        """The change since `last` was made; None if that can no longer be told."""
        if last.made_from != self._made_from:
            self._made_from = last.made_from
            self._change = session_change(self._connection, self._settings, self._sessions, last)
            self._gathered = None
        return self._change

    def gather(self, change: SessionChange) -> None:
        """Leave the shoppers that the change affects, and their events, in the connection."""
        if change is not self._gathered:
            find_affected(self._connection, self._settings, self._sessions, change)
            self._gathered = change


def _ask_from(connection: duckdb.DuckDBPyConnection, first_us: int) -> None:
    connection.execute(f"CREATE OR REPLACE TABLE asked AS SELECT {first_us}::BIGINT AS first_us")


def _read_sessions(
    connection: duckdb.DuckDBPyConnection, settings: Settings, days: Collection[str], only: str = ""
) -> None:
    connection.execute(
        f"CREATE OR REPLACE VIEW session_events AS SELECT {session_event_columns()} "
        f"FROM {read_days(settings.sessions, days)} {only}"
    )


def _read_recent(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    target: Target,
    table: FeatureTable,
    sessions: Manifest,
    change: SessionChange,
) -> None:
    """Leave the events within reach of the changed midnights, and `before`: the table so far."""
    since = iso(change.midnights_from_us - REACH_DAYS * DAY)
    _read_sessions(connection, settings, [day for day in sessions.days if day >= since])
    days = manifest(target.path).days  # type: ignore[union-attr]
    latest = "".join(f", arg_max({name}, event_timestamp) AS {name}" for name in table.carried)
    connection.execute(
        f"CREATE OR REPLACE TABLE before AS SELECT {', '.join(table.keys)}{latest} "
        f"FROM {read_days(target.path, [day for day in days if day <= since])} GROUP BY ALL"
    )


def feature_rows(table: FeatureTable, newest_us: int, part: bool = False) -> str:
    """The table's rows as SQL over `session_events`, in the form in which they are published.

    A part of them begins at the `first_us` of the table `asked`, and goes on from `before` where
    the events do not reach back to the beginning.
    """
    sql = _compiled(table.name, tuple(feature.name for feature in table.features), part)
    return _published_form(table, f"({sql})", newest_us)


def _computed(run: Run, rows: ir.Table, name: str) -> str:
    """The rows, computed elsewhere, as a DuckDB relation."""
    return f"read_parquet('{run(rows, name)}/*.parquet')"


def _published_form(table: FeatureTable, rows: str, newest_us: int) -> str:
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
    return f"SELECT {', '.join([*columns, *features])} FROM {rows} WHERE event_us <= {newest_us}"


@cache
def _compiled(name: str, features: Sequence[str], part: bool) -> str:
    """The definition's SQL, without end; compiling takes longer than running it on a small log."""
    (table,) = (table for table in TABLES if table.name == name)
    table = replace(table, features=tuple(f for f in table.features if f.name in features))
    if not part:
        return _sql(table.build(SESSION_EVENTS))
    before = ibis.table(dict.fromkeys(table.keys, "string") | table.carried, name="before")
    first_us = ibis.table({"first_us": "int64"}, name="asked").first_us.max().as_scalar()
    of_shopper = "user_id" in table.keys  # all events of these shoppers are at hand
    return _sql(table.build(SESSION_EVENTS, None if of_shopper else before, first_us))


def _one(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    ((value,),) = connection.execute(sql).fetchall()  # DuckDB 2.0 wants a result read to its end
    return int(value)


def _sql(expression: ir.Table) -> str:
    return str(ibis.to_sql(expression, dialect="duckdb"))
