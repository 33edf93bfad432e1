"""Runs the definitions on DuckDB and stages what they give, table by table.

A table is left as it is when neither its input nor its definition has changed, and goes on from
its last version when only the input has (`nextbuy.tables.incremental`). Both give the same bytes.
"""

from collections.abc import Collection, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import duckdb
import ibis.expr.types as ir

from nextbuy.connection import duckdb_connection
from nextbuy.events import EVENT_SCHEMA
from nextbuy.features import FeatureTable, supported_tables
from nextbuy.features.daily import REACH_DAYS
from nextbuy.features.history import linkable
from nextbuy.log_span import VOUCHED, Hole, LogSpan, read_span, wide_holes
from nextbuy.settings import Settings
from nextbuy.shop import UTC_ZONE, LabelConfig, SessionConfig, shop_settings
from nextbuy.shop_clock import shop_clock
from nextbuy.sql import read_parquet
from nextbuy.tables.feature_sql import (
    BEFORE,
    FROM_US,
    definition_clock,
    duckdb_sql,
    feature_rows,
    published_form,
)
from nextbuy.tables.incremental import (
    AffectedUsers,
    SessionChange,
    differing,
    find_affected,
    find_affected_labels,
    find_changed,
    iso_day,
    session_change,
)
from nextbuy.tables.labels import known_sql, label_rows
from nextbuy.tables.partitions import Partitions
from nextbuy.tables.sessions import EVENTS, SESSION_EVENTS, session_event_columns, sessionize
from nextbuy.tables.spark import Compute
from nextbuy.tables.writer import StagedTable, TableWriter
from nextbuy.times import DAY
from nextbuy.versioned_table import Manifest, Version, files, fingerprint, read_days, require

CODE = Path(__file__).parent
FEATURES = CODE.parent / "features"
ENGINE = (
    *sorted(set(CODE.glob("*.py")) - {CODE / "labels.py", CODE / "spark.py"}),
    CODE.parent / "shop_clock.py",
)
LABELS = (
    CODE / "labels.py",
    *(FEATURES / f"{name}.py" for name in ("event_order", "history", "visits", "windows")),
)


@contextmanager
def stage_sessions(
    settings: Settings, config: SessionConfig, compute: Compute | None = None
) -> Iterator[StagedTable]:
    """The next version of `sessions/`: every event with its session, by the event's day.

    Args:
        settings: where things are.
        config: when a session ends.
        compute: gives all rows instead of DuckDB (`nextbuy.tables.spark`); DuckDB writes them.

    Raises:
        NextbuyError: there are no events yet, or another run writes sessions.
    """
    events = require(settings.events, "nextbuy ingest LOG --source configs/sources/NAME.yaml")
    writer = TableWriter(
        settings.sessions,
        events,
        fingerprint(config.model_dump(), CODE / "sessions.py", *ENGINE),
        "event_time",
        ("user_id", "event_time", "event_id"),
        {**events.info, "sessions": config.model_dump()},
    )
    with writer.stage() as staged:
        if staged.version:
            with duckdb_connection(settings) as connection:
                _write_sessions(connection, writer, staged.version, settings, config, compute)
        yield staged


def _write_sessions(
    connection: duckdb.DuckDBPyConnection,
    writer: TableWriter,
    version: Version,
    settings: Settings,
    config: SessionConfig,
    compute: Compute | None,
) -> None:
    all_events = read_parquet(files(settings.events))
    span = read_span(connection, all_events, writer.source.info.get(VOUCHED))
    version.info |= span.info
    is_reached = EVENTS.event_us <= span.end_us  # strays stay out until the log has reached them
    rows = sessionize(EVENTS.filter(is_reached) if span.strays else EVENTS, config)
    names = ", ".join(name for name in EVENT_SCHEMA.names if name != "event_time")
    published_form = (
        f"SELECT {names}, make_timestamptz(event_us) AS event_time, session_id, "
        "make_timestamptz(session_start_us) AS session_start, "
        "event_number::BIGINT AS event_number, is_bot FROM {}"
    )
    if compute is not None:
        computed = _computed(compute, rows, "sessions")
        writer.write_whole(connection, version, published_form.format(computed))
        return
    sql = published_form.format(f"({duckdb_sql(rows)})")
    read = f"SELECT {names}, epoch_us(event_time) AS event_us FROM"
    last = writer.last(version)
    if last is None:
        connection.execute(f"CREATE VIEW {EVENTS.get_name()} AS {read} {all_events}")
        writer.write_whole(connection, version, sql)
        return
    removed, added = differing(last.made_from, writer.source.days)
    # Days of strays that the log has reached, or that turned out to be strays.
    moved = LogSpan.from_info(last.info).strays.keys() ^ span.strays.keys()
    before = last.days.keys() & {*removed, *moved}
    after = writer.source.days.keys() & {*added, *moved} - span.strays.keys()
    changed = find_changed(
        connection,
        f"({read} {read_days(settings.sessions, before)})",
        f"({read} {read_days(settings.events, after)})",
    )
    connection.execute(
        f"CREATE TABLE {EVENTS.get_name()} AS {read} {all_events} "
        f"SEMI JOIN {changed.users} USING (user_id)"
    )
    from_us = (span.end_us if changed.first_us is None else changed.first_us) // DAY * DAY
    writer.write_part(connection, version, sql, _among(changed.users), from_us)


@contextmanager
def stage_labels(
    settings: Settings, config: LabelConfig, compute: Compute | None = None
) -> Iterator[StagedTable]:
    """The next version of `labels/`: one row per shopper and item touched in a session.

    By the day of the session's end; see `nextbuy.tables.labels`. For the arguments, see
    `stage_sessions`.

    Raises:
        NextbuyError: there are no sessions yet, or another run writes labels.
    """
    sessions = require(settings.sessions, "nextbuy sessionize")
    span = LogSpan.from_info(sessions.info)
    holes = wide_holes(span.holes, config.horizon_us)
    session_config = SessionConfig(**sessions.info["sessions"])
    writer = TableWriter(
        settings.labels,
        sessions,
        fingerprint(config.model_dump(), session_config.model_dump(), *LABELS, *ENGINE),
        "event_timestamp",
        ("event_timestamp", "user_id", "item_id"),
        {
            "labels": config.model_dump(),
            "newest_us": span.end_us,
            "holes": [list(hole) for hole in holes],
        },
    )
    published_form = (
        "SELECT user_id, item_id, session_id, category, "
        "make_timestamptz(event_us) AS event_timestamp, "
        "make_timestamptz(next_start_us) AS next_session_start, "
        "make_timestamptz(known_us) AS known_at, label FROM {}"
    )
    with writer.stage() as staged:
        if staged.version:
            has_logins = "login" in sessions.info["provides"]
            rows = label_rows(
                SESSION_EVENTS, span.end_us, session_config, config, holes, has_logins
            )
            with duckdb_connection(settings) as connection:
                if compute is not None:
                    sql = published_form.format(_computed(compute, rows, "labels"))
                    writer.write_whole(connection, staged.version, sql)
                else:
                    sql = published_form.format(f"({duckdb_sql(rows)})")
                    _write_labels(connection, writer, staged.version, settings, sql, config)
        yield staged


def _write_labels(
    connection: duckdb.DuckDBPyConnection,
    writer: TableWriter,
    version: Version,
    settings: Settings,
    sql: str,
    config: LabelConfig,
) -> None:
    sessions = writer.source
    last = writer.last(version)
    change = session_change(connection, settings, sessions, last.made_from) if last else None
    if last is None or change is None:
        _read_sessions(connection, settings, sessions.days)
        writer.write_whole(connection, version, sql)
        return
    # A label also changes by time alone, once the log reaches the moment it matures, and where a
    # hole of the log opens or is filled.
    was_known, is_known = (
        known_sql(info["newest_us"], config, [Hole(*hole) for hole in info["holes"]])
        for info in (last.info, version.info)
    )
    maturing = (
        "SELECT user_id, epoch_us(event_timestamp) AS event_us "
        f"FROM {read_days(settings.labels, last.days)} WHERE {was_known} <> {is_known}"
    )
    affected = find_affected_labels(connection, settings, sessions, change, maturing, config)
    _show_session_events(connection, affected.events)
    writer.write_part(connection, version, sql, _among(affected.users), affected.from_us)


@contextmanager
def stage_features(
    settings: Settings, only: Collection[str] = (), compute: Compute | None = None
) -> Iterator[Iterator[StagedTable]]:
    """The next version of each feature table, by the day of its event timestamp.

    A table is written when the one before it was taken: only one is staged at a time, and what is
    not published by then is removed. A feature that the log cannot support is left out, and a
    table without features with it.

    Args:
        settings: where things are.
        only: names of the tables to build; empty for all.
        compute: see `stage_sessions`.

    Raises:
        NextbuyError: there are no sessions yet, or another run builds large tables.
    """
    sessions = require(settings.sessions, "nextbuy sessionize")
    tables = [
        table
        for table in supported_tables(
            sessions.info["provides"], SessionConfig(**sessions.info["sessions"]).gap_us
        )
        if not only or table.name in only
    ]
    with (
        duckdb_connection(settings) as connection,
        closing(_staged_features(connection, settings, sessions, tables, compute)) as staged,
    ):
        yield staged


def _staged_features(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    sessions: Manifest,
    tables: Collection[FeatureTable],
    compute: Compute | None,
) -> Generator[StagedTable, None, None]:
    zone = shop_settings(settings).time_zone
    changes = _Changes(connection, settings, sessions, zone)
    info = {} if zone == UTC_ZONE else {"time_zone": zone}
    max_shoppers = SessionConfig(**sessions.info["sessions"]).max_shoppers
    with Partitions(connection, settings, sessions) as partitions:
        for table in tables:
            features = [feature.name for feature in table.features]
            writer = TableWriter(
                settings.features / table.name,
                sessions,
                fingerprint(
                    features, shop_clock(zone), max_shoppers, table.gap_us, FEATURES, *ENGINE
                ),
                "event_timestamp",
                ("event_timestamp", *table.keys),
                info,
            )
            with writer.stage() as staged:
                if staged.version and compute is not None:
                    events = linkable(SESSION_EVENTS, max_shoppers)
                    rows = table.build(events, clock=changes.clock)
                    rows = _computed(compute, rows, table.name)
                    sql = published_form(table, rows, sessions.info["newest_us"])
                    writer.write_whole(connection, staged.version, sql)
                elif staged.version:
                    _write_features(connection, writer, staged.version, table, changes, partitions)
                yield staged


class _Changes:
    """What changed since the sessions that a table was made from, computed once per such state."""

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        settings: Settings,
        sessions: Manifest,
        zone: str,
    ) -> None:
        self._connection, self._sessions = connection, sessions
        self.settings, self.zone = settings, zone
        self.clock = definition_clock(zone, sessions)
        """For definitions."""
        self._made_from: dict[str, str] = {}
        self._change: SessionChange | None = None
        self._affected: AffectedUsers | None = None

    def since(self, last: Manifest) -> SessionChange | None:
        """The change since `last` was made; None if those sessions are gone."""
        if last.made_from != self._made_from:
            self._made_from, self._affected = last.made_from, None
            self._change = session_change(
                self._connection, self.settings, self._sessions, last.made_from
            )
        return self._change

    def affected(self, change: SessionChange) -> AffectedUsers:
        """The shoppers that the latest change affects, and their events."""
        if self._affected is None:
            self._affected = find_affected(self._connection, self.settings, self._sessions, change)
        return self._affected


def _write_features(
    connection: duckdb.DuckDBPyConnection,
    writer: TableWriter,
    version: Version,
    table: FeatureTable,
    changes: _Changes,
    partitions: Partitions,
) -> None:
    newest_us = writer.source.info["newest_us"]
    last = writer.last(version)
    change = changes.since(last) if last else None
    if last is None or change is None:
        partitioned = partitions.events_for(table)
        _show_session_events(connection, partitioned.events)
        sql = feature_rows(table, newest_us, clock=changes.clock)
        writer.write_whole(connection, version, sql, partitioned.n_partitions)
        return
    if "user_id" in table.keys:
        affected = changes.affected(change)
        _show_session_events(connection, f"FROM {affected.events}")
        stale, from_us = _among(affected.users), change.rows_from_us
    else:
        stale, from_us = "true", change.midnights_from_us
        # Events from a midnight of the shop's clock on, and the carried features as of it.
        clock = shop_clock(changes.zone)
        since_us = clock.midnight(clock.clean_day(clock.day(from_us) - REACH_DAYS))
        since = iso_day(since_us)
        days = [day for day in writer.source.days if day >= since]
        only = f"WHERE epoch_us(event_time) >= {since_us}"
        _read_sessions(connection, changes.settings, days, only)
        latest = "".join(f", arg_max({name}, event_timestamp) AS {name}" for name in table.carried)
        connection.execute(
            f"CREATE OR REPLACE TABLE {BEFORE} AS SELECT {', '.join(table.keys)}{latest} "
            f"FROM {read_days(writer.path, [day for day in last.days if day <= since])} "
            f"WHERE epoch_us(event_timestamp) <= {since_us} GROUP BY ALL"
        )
    connection.execute(f"CREATE OR REPLACE TABLE {FROM_US} AS SELECT {from_us}::BIGINT AS first_us")
    sql = feature_rows(table, newest_us, part=True, clock=changes.clock)
    writer.write_part(connection, version, sql, stale, from_us)


def _show_session_events(connection: duckdb.DuckDBPyConnection, rows: str) -> None:
    """Let definitions read this query as their session events."""
    connection.execute(f"CREATE OR REPLACE VIEW {SESSION_EVENTS.get_name()} AS {rows}")


def _read_sessions(
    connection: duckdb.DuckDBPyConnection, settings: Settings, days: Collection[str], only: str = ""
) -> None:
    """Let definitions read these days of the published sessions."""
    rows = f"SELECT {session_event_columns()} FROM {read_days(settings.sessions, days)} {only}"
    _show_session_events(connection, rows)


def _among(users: str) -> str:
    """Condition on rows of the users in a table."""
    return f"user_id IN (SELECT user_id FROM {users})"


def _computed(compute: Compute, rows: ir.Table, name: str) -> str:
    """The rows, computed elsewhere, as a DuckDB relation."""
    return read_parquet(f"{compute(rows, name)}/*.parquet")


def _one(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    ((value,),) = connection.execute(sql).fetchall()  # DuckDB 2.0 needs a result read to its end
    return int(value)
