"""One monitoring run over everything: `nextbuy monitor`."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from monitoring import signals
from monitoring.alerts import (
    Alert,
    AlertRule,
    Signal,
    evaluate,
    read_silences,
    read_state,
    write_state,
)
from monitoring.config import MonitoringConfig, load_config
from monitoring.live import live
from monitoring.notify import notify
from monitoring.table_checks import check_published
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.versioned_table import manifest

Status = Literal[
    "ok", "not applied", "warn", "fail", "ALERT", "recovering", "acknowledged", "silenced"
]
"""`ok`: looked at, and within its bound. `not applied`: there was nothing, or too little, to judge.
The last four are the states of an alert."""
SHOWN: Mapping[str, Status] = {
    "raised": "ALERT",
    "recovering": "recovering",
    "acknowledged": "acknowledged",
    "silenced": "silenced",
}
"""State of a raised alert -> how its line begins."""


class Finding(BaseModel):
    """One result of a run, and what to do about it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    status: Status
    subject: str
    message: str

    def __str__(self) -> str:
        return f"{self.status:<12} {self.subject:<17} {self.message}"


class MonitorReport(BaseModel):
    """All findings of one run, and the alerts after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    findings: tuple[Finding, ...]
    alerts: tuple[Alert, ...] = ()

    @property
    def raised(self) -> list[Alert]:
        """Alerts that this run saw above their bound, and nobody has acknowledged or silenced."""
        return [a for a in self.alerts if a.state == "raised"]

    @property
    def exit_code(self) -> int:
        """1 if a step failed or an alert of level `fail` is raised; warnings alone give 0."""
        failed = any(finding.status == "fail" for finding in self.findings)
        return int(failed or any(a.level == "fail" for a in self.raised))

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))


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
    results: list[Finding | Signal] = []
    steps: dict[str, Callable[[], Iterator[Finding | Signal | str]]] = {
        "quality": lambda: _quality(settings, config, ran),
        "days": lambda: signals.unusual_days(settings, config),
        "freshness": lambda: signals.freshness(settings, at),
        "model": lambda: signals.model(settings, config, ran, pages),
        "served": lambda: signals.served(settings, config, at, ran),
        "live": lambda: live(settings),
        "parity": lambda: signals.parity(settings, ran),
        "latency": lambda: signals.latency(settings, ran),
    }
    for subject, step in steps.items():
        progress(subject)
        try:
            for result in step():
                results.append(
                    Finding(status="not applied", subject=subject, message=result)
                    if isinstance(result, str)
                    else result
                )
        except NextbuyError as error:
            results.append(Finding(status="fail", subject=subject, message=str(error)))
    numbers = [result for result in results if isinstance(result, Signal)]
    before: Mapping[str, Alert] = {}
    try:
        before = read_state(settings)
        alerts = evaluate(config.alerts, numbers, before, read_silences(settings), at)
    except NextbuyError as error:
        findings = [result for result in results if isinstance(result, Finding)]
        findings.append(Finding(status="fail", subject="alerts", message=str(error)))
        return MonitorReport(at=at, findings=tuple(findings))
    notified, problem = notify(list(alerts.values()))
    write_state(settings, notified, config.alerts, at, ran)
    findings = [
        _judged(result, alerts[result.name], before.get(result.name), config.alerts[result.name])
        if isinstance(result, Signal)
        else result
        for result in results
    ]
    seen = {signal.name for signal in numbers}
    findings += [
        _not_seen(alert) for alert in notified if alert.is_raised and alert.name not in seen
    ]
    if problem:
        findings.append(Finding(status="fail", subject="webhook", message=problem))
    return MonitorReport(at=at, findings=tuple(findings), alerts=tuple(notified))


def _judged(signal: Signal, alert: Alert, before: Alert | None, rule: AlertRule) -> Finding:
    """What a signal says, by the bounds of its own rule."""
    bound = signal.in_words(rule.above)
    message = signal.message
    status: Status = "ok"
    if alert.is_raised:
        status = SHOWN[alert.state]
        features = f" Features: {', '.join(alert.features)}." if alert.features else ""
        end = signal.in_words(rule.above if rule.over is None else rule.over)
        message += (
            f"{features} Alert since {alert.since:%Y-%m-%d %H:%M} UTC, from {bound} on until below "
            f"{end}. {alert.remedy}"
        )
    elif alert.since:
        status = "warn"
        message += f" Alert from {bound} on in {rule.runs} runs in a row, {alert.streak} so far."
    else:
        message += f" Alert from {bound} on."
        if before is not None and before.is_raised:
            message += f" The alert since {before.since:%Y-%m-%d %H:%M} UTC has ended."
    return Finding(status=status, subject=signal.name, message=message)


def _not_seen(alert: Alert) -> Finding:
    """An alert that stays raised because this run has no number for it."""
    return Finding(
        status=SHOWN[alert.state],
        subject=alert.name,
        message=f"Not measured in this run; since {alert.since:%Y-%m-%d %H:%M} UTC: "
        f"{alert.message} {alert.remedy}",
    )


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
        status: Status = "fail" if report.blocking else "warn" if report.warnings else "ok"
        message = f"{report.rows:,} rows pass {report.tally}"
        yield Finding(status=status, subject=report.table, message=message)
        for result in report.blocking:
            yield Finding(status="fail", subject=report.table, message=str(result))
        for result in report.warnings:
            yield Finding(status="warn", subject=report.table, message=str(result))
        for result in report.not_applied:
            yield Finding(status="not applied", subject=report.table, message=str(result))
    if reports:
        yield from signals.quality(reports)
