"""One look at everything: `nextbuy monitor`."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from monitoring import signals
from monitoring.alerts import (
    Alert,
    Signal,
    evaluate,
    read_quieted,
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
    """What one look found, and what to do about it."""

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
        """1 where a look failed or an alert of level `fail` is raised; warnings alone give 0."""
        failed = any(finding.status == "fail" for finding in self.findings)
        return int(failed or any(a.level == "fail" for a in self.raised))

    def __str__(self) -> str:
        lines = [*map(str, self.findings)]
        for alert in self.alerts:
            if alert.is_raised:
                lines.append(f"{'ALERT' if alert.quieted is None else alert.quieted:<5} {alert}")
        return "\n".join(lines)


def monitor(
    settings: Settings,
    at: datetime | None = None,
    *,
    config: MonitoringConfig | None = None,
    pages: bool = True,
    progress: Callable[[str], None] = lambda step: None,
) -> MonitorReport:
    """Check the tables, judge days, drift and predictions, and evaluate the alert rules.

    Args:
        settings: where everything is.
        at: the moment of the look, instead of now: a log of the past has its own present.
        config: instead of `configs/monitoring.yaml`.
        pages: whether Evidently writes its full report.
        progress: told of each step.

    What cannot be looked at is a finding that fails, and the other looks go on.
    """
    ran = datetime.now(UTC)
    config, at = config or load_config(), at or ran
    findings: list[Finding] = []
    seen: list[Signal] = []
    steps: dict[str, Callable[[], Iterator[Finding | Signal]]] = {
        "quality": lambda: _quality(settings, config, ran),
        "days": lambda: _said("days", signals.unusual_days(settings, config)),
        "freshness": lambda: _said("freshness", signals.freshness(settings, at)),
        "model": lambda: _said("model", signals.model(settings, config, ran, pages)),
        "served": lambda: _said("served", signals.served(settings, config, at, ran)),
        "parity": lambda: _said("parity", signals.parity(settings, ran)),
        "latency": lambda: _said("latency", signals.latency(settings, ran)),
    }
    for subject, look in steps.items():
        progress(subject)
        try:
            for told in look():
                (seen if isinstance(told, Signal) else findings).append(told)  # type: ignore[arg-type]
        except NextbuyError as error:
            findings.append(Finding(status="fail", subject=subject, message=str(error)))
    try:
        alerts = evaluate(config.alerts, seen, read_state(settings), read_quieted(settings), at)
    except NextbuyError as error:
        findings.append(Finding(status="fail", subject="alerts", message=str(error)))
        return MonitorReport(at=at, findings=tuple(findings))
    told_alerts, trouble = notify(list(alerts.values()))
    write_state(settings, told_alerts, config.alerts, at, ran)
    if trouble:
        findings.append(Finding(status="fail", subject="webhook", message=trouble))
    return MonitorReport(at=at, findings=tuple(findings), alerts=tuple(told_alerts))


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
        kept = sum(result.passed for result in report.results)
        yield Finding(
            status="ok",
            subject=report.table,
            message=f"{report.rows:,} rows keep {kept} of {len(report.results)} rules",
        )
    if reports:
        yield from signals.quality(reports)


def _said(subject: str, found: Iterator[Signal | str]) -> Iterator[Finding | Signal]:
    """Signals as they are; a text is a finding that something cannot be said yet."""
    for one in found:
        if isinstance(one, Signal):
            yield Finding(status="ok", subject=subject, message=one.message)
            yield one
        else:
            yield Finding(status="warn", subject=subject, message=one)
