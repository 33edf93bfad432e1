"""One monitoring run over everything: `nextbuy monitor`."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from monitoring import signals
from monitoring.alerts import (
    Alert,
    Signal,
    evaluate,
    read_silences,
    read_state,
    write_state,
)
from monitoring.config import MonitoringConfig, load_config
from monitoring.notify import notify
from monitoring.table_checks import check_published
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.versioned_table import manifest

Status = Literal["ok", "warn", "fail"]


class Finding(BaseModel):
    """One result of a run, and what to do about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Status
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.status:<5} {self.subject:<12} {self.message}"


class MonitorReport(BaseModel):
    """All findings of one run, and the alerts after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    findings: tuple[Finding, ...]
    alerts: tuple[Alert, ...] = ()

    @property
    def raised(self) -> list[Alert]:
        """Alerts that nobody has acknowledged or silenced."""
        return [a for a in self.alerts if a.state == "raised"]

    @property
    def exit_code(self) -> int:
        """1 if a step failed or an alert of level `fail` is raised; warnings alone give 0."""
        failed = any(finding.status == "fail" for finding in self.findings)
        return int(failed or any(a.level == "fail" for a in self.raised))

    def __str__(self) -> str:
        lines = [*map(str, self.findings)]
        for alert in self.alerts:
            if alert.is_raised:
                lines.append(f"{'ALERT' if alert.muted is None else alert.muted:<5} {alert}")
        return "\n".join(lines)


def monitor(
    settings: Settings,
    at: datetime | None = None,
    *,
    config: MonitoringConfig | None = None,
    pages: bool = True,
    progress: Callable[[str], None] = lambda step: None,
) -> MonitorReport:
    """Check the tables, compare days, drift and predictions, and evaluate the alert rules.

    A step that fails is a finding, and the other steps go on.

    Args:
        settings: where everything is.
        at: the present, instead of the clock's: a log of the past has its own.
        config: instead of `configs/monitoring.yaml`.
        pages: whether Evidently writes its full report.
        progress: called with the name of each step.
    """
    ran = datetime.now(UTC)
    config, at = config or load_config(), at or ran
    findings: list[Finding] = []
    numbers: list[Signal] = []
    steps: dict[str, Callable[[], Iterator[Finding | Signal]]] = {
        "quality": lambda: _quality(settings, config, ran),
        "days": lambda: _findings("days", signals.unusual_days(settings, config)),
        "freshness": lambda: _findings("freshness", signals.freshness(settings, at)),
        "model": lambda: _findings("model", signals.model(settings, config, ran, pages)),
        "served": lambda: _findings("served", signals.served(settings, config, at, ran)),
        "parity": lambda: _findings("parity", signals.parity(settings, ran)),
        "latency": lambda: _findings("latency", signals.latency(settings, ran)),
    }
    for subject, step in steps.items():
        progress(subject)
        try:
            for result in step():
                if isinstance(result, Signal):
                    numbers.append(result)
                else:
                    findings.append(result)
        except NextbuyError as error:
            findings.append(Finding(status="fail", subject=subject, message=str(error)))
    try:
        alerts = evaluate(config.alerts, numbers, read_state(settings), read_silences(settings), at)
    except NextbuyError as error:
        findings.append(Finding(status="fail", subject="alerts", message=str(error)))
        return MonitorReport(at=at, findings=tuple(findings))
    notified, problem = notify(list(alerts.values()))
    write_state(settings, notified, config.alerts, at, ran)
    if problem:
        findings.append(Finding(status="fail", subject="webhook", message=problem))
    return MonitorReport(at=at, findings=tuple(findings), alerts=tuple(notified))


def newest_event(settings: Settings) -> datetime:
    """The present of a log of the past: the moment of its newest event.

    Raises:
        NextbuyError: there are no sessions yet.
    """
    return signals.newest_event(settings) + timedelta(seconds=1)


def _quality(
    settings: Settings, config: MonitoringConfig, ran: datetime
) -> Iterator[Finding | Signal]:
    for name, command in (
        ("events", "nextbuy ingest LOG --source NAME"),
        ("sessions", "nextbuy sessionize"),
        ("labels", "nextbuy sessionize"),
    ):
        if manifest(getattr(settings, name)) is None:
            message = f"not there yet. Make it with: {command}"
            yield Finding(status="fail", subject=name, message=message)
    if not any(settings.features.glob("*/manifest.json")):
        message = "not there yet. Make them with: nextbuy features"
        yield Finding(status="fail", subject="features", message=message)
    reports = check_published(settings, config, ran)
    for report in reports:
        for result in report.blocking:
            yield Finding(status="fail", subject=report.table, message=str(result))
        for result in report.warnings:
            yield Finding(status="warn", subject=report.table, message=str(result))
        passed = sum(result.passed for result in report.results)
        yield Finding(
            status="ok",
            subject=report.table,
            message=f"{report.rows:,} rows pass {passed} of {len(report.results)} checks",
        )
    if reports:
        yield from signals.quality(reports)


def _findings(subject: str, looked: Iterator[Signal | str]) -> Iterator[Finding | Signal]:
    """Each signal with a finding that states it; a text is a finding that a number is missing."""
    for result in looked:
        if isinstance(result, Signal):
            yield Finding(status="ok", subject=subject, message=result.message)
            yield result
        else:
            yield Finding(status="warn", subject=subject, message=result)
