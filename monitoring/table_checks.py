"""Checks everything that is published, or about to be, each table by its own suite."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from monitoring.checks import CheckReport, raise_if_blocked, run_checks
from monitoring.config import MonitoringConfig, Severity, load_config
from monitoring.rules import Check
from monitoring.suites.events import event_checks
from monitoring.suites.features import feature_checks
from monitoring.suites.labels import label_checks
from monitoring.suites.predictions import prediction_checks
from monitoring.suites.sessions import session_checks
from nextbuy.connection import duckdb_connection
from nextbuy.features import TABLES, supported_tables
from nextbuy.log_span import VOUCHED, Hole, read_span
from nextbuy.settings import Settings
from nextbuy.shop import LabelConfig, SessionConfig, shop_settings
from nextbuy.sql import read_parquet
from nextbuy.tables.labels import known_sql
from nextbuy.tables.writer import StagedTable
from nextbuy.times import to_datetime
from nextbuy.versioned_table import files, manifest, require

PREDICTION_DAYS = 7
"""Newest days of the prediction log that are checked: earlier runs checked the days before."""


class Suite(NamedTuple):
    """The checks of one published table."""

    table: str
    files: str | Sequence[Path]
    checks: list[Check]


def check_published(
    settings: Settings,
    config: MonitoringConfig,
    now: datetime | None = None,
    progress: Callable[[str], None] = lambda table: None,
) -> list[CheckReport]:
    """Check every published table and the prediction log; missing ones are skipped.

    Raises:
        NextbuyError: a file is not Parquet, or the configuration names an unknown check.
    """
    now = now or datetime.now(UTC)
    reports = []
    for suite in suites(settings, config, now):
        progress(suite.table)
        reports.append(run_checks(suite.table, suite.files, suite.checks, settings, config, now))
    return reports


def suites(settings: Settings, config: MonitoringConfig, now: datetime) -> Iterator[Suite]:
    """The suite of each table that is published, by what the table was made from."""
    events = manifest(settings.events)
    if events is not None:
        with duckdb_connection(settings) as connection:
            rows = read_parquet(files(settings.events))
            span = read_span(connection, rows, events.info.get(VOUCHED))
        max_shoppers = shop_settings(settings).sessions.max_shoppers
        checks = event_checks(now, config.events, max_shoppers, span.end)
        yield Suite("events", files(settings.events), checks)
        tables = [settings.sessions, *(settings.features / table.name for table in TABLES)]
        for table in (*tables, settings.labels):
            published = manifest(table)
            if published is not None:
                n_events = events.rows - span.n_strays
                checks = _suite(settings, table.name, published.info, n_events)
                if checks:
                    yield Suite(table.name, files(table), checks)
    complete = "[!.]*.parquet"  # a file being written is hidden, but not from DuckDB's star
    days = sorted({file.parent for file in settings.predictions.glob(f"day=*/{complete}")})
    if days:
        newest = [day / complete for day in days[-PREDICTION_DAYS:]]
        yield Suite("predictions", newest, prediction_checks(now))


def check_staged(staged: StagedTable, settings: Settings) -> None:
    """Check sessions, labels or a feature table before it is published.

    Of a version that goes on from the last one, only the new days are checked, by the checks that
    block: every check holds day by day, and the kept days have passed it.

    Raises:
        NextbuyError: a blocking check is broken; the table must not be published.
    """
    version, new = staged.version, staged.new_files
    if version is None or not new:
        return
    of_events = (settings.events / file.parent.name / file.name for file in new)
    n_events = sum(pq.read_metadata(file).num_rows for file in of_events if file.exists())
    name, now = version.table.name, datetime.now(UTC)
    checks = _suite(settings, name, version.info, n_events)
    only: Severity | None = "block" if version.kept else None
    raise_if_blocked(run_checks(name, new, checks, settings, load_config(), now, only=only))


def _suite(settings: Settings, table: str, info: dict[str, Any], n_events: int) -> list[Check]:
    """The suite of a table made of events; `info` is its manifest's."""
    if table == settings.sessions.name:
        return session_checks(SessionConfig(**info["sessions"]), n_events)
    if table == settings.labels.name:
        config = LabelConfig(**info["labels"])
        holes = [Hole(*hole) for hole in info.get("holes", ())]
        is_known = known_sql(info["newest_us"], config, holes)
        return label_checks(is_known, config.horizon_days)
    sessions = require(settings.sessions, "nextbuy sessionize")
    newest = to_datetime(sessions.info["newest_us"])
    for definition in supported_tables(sessions.info["provides"]):
        if definition.name == table:
            return feature_checks(definition, newest)
    return []  # built from another log, which supported it
