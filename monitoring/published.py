"""Checks everything that is published, each table by its own suite."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from monitoring.checks import CheckReport, check
from monitoring.config import MonitoringConfig
from monitoring.rules import Rule
from monitoring.suites.events import event_rules
from monitoring.suites.features import feature_rules
from monitoring.suites.labels import label_rules
from monitoring.suites.predictions import prediction_rules
from monitoring.suites.sessions import session_rules
from nextbuy.features import TABLES
from nextbuy.sessions import SessionConfig
from nextbuy.settings import Settings
from nextbuy.storage import files, manifest


class Suite(NamedTuple):
    """The rules of one table that is there."""

    table: str
    files: str
    rules: list[Rule]


def check_published(
    settings: Settings,
    config: MonitoringConfig,
    now: datetime | None = None,
    progress: Callable[[str], None] = lambda table: None,
) -> list[CheckReport]:
    """Check every published table and the prediction log; what is not there yet is passed over.

    Raises:
        NextbuyError: a file is no Parquet, or the configuration names a rule that is none.
    """
    now = now or datetime.now(UTC)
    reports = []
    for suite in suites(settings, config, now):
        progress(suite.table)
        reports.append(check(suite.table, suite.files, suite.rules, settings, config, now))
    return reports


def suites(settings: Settings, config: MonitoringConfig, now: datetime) -> Iterator[Suite]:
    """The suite of each table that is there, told what the table was made from."""
    events, sessions = manifest(settings.events), manifest(settings.sessions)
    if events is not None:
        yield Suite("events", files(settings.events), event_rules(now, config.events))
    if events is not None and sessions is not None:
        newest = _moment(sessions.info["newest_us"])
        cut = session_rules(SessionConfig(**sessions.info["sessions"]), events.rows)
        yield Suite("sessions", files(settings.sessions), cut)
        for table in TABLES:
            kept = table.given(sessions.info["provides"])
            if manifest(settings.features / table.name) is not None and kept.features:
                target = files(settings.features / table.name)
                yield Suite(table.name, target, feature_rules(kept, newest))
    labels = manifest(settings.labels)
    if labels is not None:
        newest = _moment(labels.info["newest_us"])
        rules = label_rules(newest, labels.info["labels"]["horizon_days"])
        yield Suite("labels", files(settings.labels), rules)
    complete = "day=*/[!.]*.parquet"  # a file being written is hidden, but not from DuckDB's star
    if any(settings.predictions.glob(complete)):
        yield Suite("predictions", f"{settings.predictions}/{complete}", prediction_rules(now))


def _moment(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
