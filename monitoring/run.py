"""One look at everything: `nextbuy monitor`."""

from typing import Literal

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import BaseModel, ConfigDict

from monitoring.checks import check_events
from monitoring.drift import feature_drift, training_windows
from monitoring.parity import parity
from nextbuy.contract import CHAMPION, REGISTERED_MODEL
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.storage import files, manifest

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
    """All findings of one run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    findings: tuple[Finding, ...]

    @property
    def exit_code(self) -> int:
        """1 where something failed or is missing; warnings alone do not stop a pipeline."""
        return int(any(finding.status == "fail" for finding in self.findings))

    def __str__(self) -> str:
        return "\n".join(map(str, self.findings))


def monitor(settings: Settings) -> MonitorReport:
    """Look at events, tables and champion, the drift of its features, and parity."""
    findings = [*_events(settings), *_tables(settings), _champion(settings), *_drift(settings)]
    findings += _parity(settings)
    return MonitorReport(findings=tuple(findings))


def _events(settings: Settings) -> list[Finding]:
    if manifest(settings.events) is None:
        return [_missing("events", "nextbuy ingest LOG --source NAME")]
    report = check_events(files(settings.events), settings)
    told = [Finding(status="fail", subject="events", message=str(r)) for r in report.blocking]
    told += [Finding(status="warn", subject="events", message=str(r)) for r in report.warnings]
    passed = len(report.results) - len(told)
    message = f"{report.rows:,} rows keep {passed} of {len(report.results)} rules"
    return [Finding(status="ok", subject="events", message=message), *told]


def _tables(settings: Settings) -> list[Finding]:
    sessions, labels = manifest(settings.sessions), manifest(settings.labels)
    if sessions is None or labels is None:
        return [_missing("sessions", "nextbuy sessionize")]
    found = [_is_there("sessions", sessions.rows), _is_there("labels", labels.rows)]
    built = sorted(settings.features.glob("*/manifest.json"))
    if not built:
        return [*found, _missing("features", "nextbuy features")]
    rows = {file.parent.name: manifest(file.parent) for file in built}
    return [*found, *(_is_there(name, table.rows) for name, table in rows.items() if table)]


def _champion(settings: Settings) -> Finding:
    if settings.mlflow_tracking_uri is None and not (settings.data / "mlflow").is_dir():
        return _missing("champion", "nextbuy train")
    mlflow.set_tracking_uri(settings.tracking_uri)
    try:
        version = MlflowClient().get_model_version_by_alias(REGISTERED_MODEL, CHAMPION)
    except MlflowException as error:
        return Finding(
            status="fail",
            subject="champion",
            message=f"MLflow names none ({error}). Make one with: nextbuy train",
        )
    metrics = MlflowClient().get_run(str(version.run_id)).data.metrics
    score = f", test PR-AUC {metrics['test_pr_auc']:.3f}" if "test_pr_auc" in metrics else ""
    return Finding(status="ok", subject="champion", message=f"version {version.version}{score}")


def _drift(settings: Settings) -> list[Finding]:
    try:
        found = feature_drift(*training_windows(settings), settings)
    except NextbuyError as error:
        return [Finding(status="fail", subject="drift", message=str(error))]
    moved = [drift for drift in found if drift.is_drifted]
    worst = ", ".join(f"{d.feature} {d.distance:.2f}" for d in moved[:3])
    return [
        Finding(
            status="warn" if moved else "ok",
            subject="drift",
            message=f"{len(moved)} of {len(found)} features moved since the training period"
            + (f", most of all {worst}. See them with: nextbuy dashboard" if moved else ""),
        )
    ]


def _parity(settings: Settings) -> list[Finding]:
    if not any(settings.predictions.glob("day=*/*.parquet")):
        return []
    try:
        found = parity(settings)
    except NextbuyError as error:
        return [Finding(status="warn", subject="parity", message=str(error))]
    return [
        Finding(status="fail" if found.mismatches else "ok", subject="parity", message=str(found))
    ]


def _missing(subject: str, command: str) -> Finding:
    return Finding(
        status="fail", subject=subject, message=f"not there yet. Make it with: {command}"
    )


def _is_there(name: str, rows: int) -> Finding:
    status: Status = "ok" if rows else "fail"
    return Finding(status=status, subject=name, message=f"{rows:,} rows")
