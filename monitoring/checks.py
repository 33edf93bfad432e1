"""Runs the checks of a table and reports them; a table that breaks a blocking one is kept out."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
from great_expectations.core import ExpectationValidationResult
from pydantic import BaseModel, ConfigDict, Field

from monitoring import reports
from monitoring.config import MonitoringConfig, Severity, load_config
from monitoring.ge_duckdb import check_name, run_suite, write_page
from monitoring.rules import Check, configured
from monitoring.suites.events import event_checks
from nextbuy.atomic import replacing
from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.shop import shop_settings
from nextbuy.sql import literal
from nextbuy.versioned_table import fingerprint

SAMPLE = 5
"""Rows that a result shows."""
TABLE = "checked"


class CheckResult(BaseModel):
    """The outcome of one check."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    check: str
    columns: tuple[str, ...]
    severity: Severity
    tolerance: float
    """Share of rows that may break the check."""
    passed: bool | None
    """None: not applied, there is too little to judge."""
    unexpected: int | None
    """Rows (or groups) that break it; None if the check is of the table as a whole."""
    share: float | None
    """`unexpected` over all rows, where rows are counted."""
    observed: str
    """What the check observed, or why it was not applied, in words."""
    remedy: str
    sample: tuple[dict[str, Any], ...] = ()

    def __str__(self) -> str:
        columns = f" ({', '.join(self.columns)})" if self.columns else ""
        text = f"{self.check}{columns}: {self.observed}."
        if self.passed is None:
            return text
        if self.sample:
            text += f" For example {json.dumps(self.sample[0], default=str)}."
        return f"{text} {self.remedy}"


class CheckReport(BaseModel):
    """All checks of one table at one moment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    source: str
    checked_at: datetime
    rows: int
    results: tuple[CheckResult, ...]
    quarantine: Path | None = None
    """Where the rows that break blocking checks were copied to."""
    outcome: Any = Field(default=None, exclude=True, repr=False)
    """Great Expectations' own result, for its Data Docs."""

    @property
    def blocking(self) -> list[CheckResult]:
        """Failed checks that keep the table from being published."""
        return [r for r in self.results if r.passed is False and r.severity == "block"]

    @property
    def warnings(self) -> list[CheckResult]:
        """Failed checks that are reported and block nothing."""
        return [r for r in self.results if r.passed is False and r.severity == "warn"]

    @property
    def not_applied(self) -> list[CheckResult]:
        """Checks that had too little to judge."""
        return [r for r in self.results if r.passed is None]

    @property
    def tally(self) -> str:
        """`17 of 17 checks, 3 too small to judge`: those passed, of those applied."""
        return tally([r.passed for r in self.results])


def tally(passed: Sequence[bool | None]) -> str:
    """How many checks passed, of how many that were applied, and how many were not.

    >>> tally([True, True, False, None])
    '2 of 3 checks, 1 too small to judge'
    """
    applied = [one for one in passed if one is not None]
    small = len(passed) - len(applied)
    text = f"{sum(applied)} of {len(applied)} checks"
    return f"{text}, {small} too small to judge" if small else text


def check_events(
    files: str | Path,
    settings: Settings,
    *,
    config: MonitoringConfig | None = None,
    now: datetime | None = None,
) -> CheckReport:
    """Check canonical events, as staged by an ingestion or as published.

    Args:
        files: a Parquet file, a folder of them, or a glob.
        settings: where the report and the quarantine go.
        config: bounds, severities and tolerances, instead of `configs/monitoring.yaml`.
        now: the present, instead of the clock's; later events lie in the future.

    Raises:
        NextbuyError: there is no file, or one is no Parquet.
    """
    config, now = config or load_config(), now or datetime.now(UTC)
    checks = event_checks(now, config.events, shop_settings(settings).sessions.max_shoppers)
    return run_checks("events", files, checks, settings, config, now)


def run_checks(
    table: str,
    files: str | Path | Sequence[Path],
    checks: Sequence[Check],
    settings: Settings,
    config: MonitoringConfig,
    now: datetime,
    *,
    only: Severity | None = None,
) -> CheckReport:
    """Run checks over Parquet files, save the report, and copy rows that block to quarantine.

    Args:
        table: name of the table, as the configuration and the reports call it.
        files: a Parquet file, a folder of them, a glob, or several of these.
        checks: the table's suite.
        settings: where the report and the quarantine go.
        config: severities and tolerances that differ from the suite's.
        now: the moment of the run.
        only: run the checks of this severity alone.

    Raises:
        NextbuyError: there is no file, one is not Parquet, or the configuration names an unknown
            check.
    """
    checks = configured(table, checks, config.checks.get(table, {}))
    checks = [check for check in checks if only in (None, check.severity)]
    globs = [_glob(file) for file in ([files] if isinstance(files, str | Path) else files)]
    listed = ", ".join(map(literal, globs))
    source = globs[0] if len(globs) == 1 else f"{Path(globs[0]).parents[1]} ({len(globs)} days)"
    with duckdb_connection(settings) as connection:
        try:
            connection.execute(
                f"CREATE VIEW {TABLE} AS SELECT * FROM read_parquet([{listed}], "
                "hive_partitioning = false, union_by_name = true)"
            )
            columns = [name for name, *_ in connection.execute(f"DESCRIBE {TABLE}").fetchall()]
            rows = int(connection.execute(f"SELECT count(*) FROM {TABLE}").fetchall()[0][0])
        except duckdb.Error as error:
            raise NextbuyError(
                f"{table} cannot be checked, {source} is not readable as Parquet: {error}"
            ) from error
        possible = [check for check in checks if set(check.columns) <= set(columns)]
        judged = {check.name: _judged(connection, check) for check in possible}
        applied = [check for check in possible if judged[check.name].is_any]
        outcome = run_suite(connection, TABLE, table, applied)
        by_name = {check_name(result): result for result in outcome.results}
        results = tuple(
            _result(check, by_name[check.name], rows, judged[check.name])
            if check.name in by_name
            else _not_applied(check, judged[check.name].why)
            if check.name in judged
            else _not_run(check, sorted(set(check.columns) - set(columns)))
            for check in checks
        )
        report = CheckReport(table=table, source=source, checked_at=now, rows=rows, results=results)
        folder = _quarantine(connection, checks, report, settings)
    report = report.model_copy(update={"quarantine": folder, "outcome": outcome})
    _append(report, settings)
    return report


def raise_if_blocked(report: CheckReport) -> None:
    """Refuse a table that breaks a blocking check.

    Raises:
        NextbuyError: names the checks, their columns, how many rows break them, and the remedies.
    """
    if not report.blocking:
        return
    lines = "\n".join(f"  {result}" for result in report.blocking)
    applied = len(report.results) - len(report.not_applied)
    text = (
        f"{report.table} ({report.rows:,} rows) break {len(report.blocking)} of "
        f"{applied} checks and are not published:\n{lines}"
    )
    if report.quarantine:
        text += f"\nThe rows are in {report.quarantine}."
    raise NextbuyError(
        f"{text}\nCorrect the data, or change a check's severity or tolerance in "
        f"configs/monitoring.yaml under checks.{report.table}."
    )


def write_docs(reported: Sequence[CheckReport], settings: Settings) -> Path:
    """Write Great Expectations' Data Docs, `reports/data_docs/<table>.html`; returns the folder."""
    folder = settings.reports / "data_docs"
    for report in reported:
        small = [str(result) for result in report.not_applied]
        write_page(report.outcome, folder / f"{report.table}.html", small)
    return folder


class _Judged(NamedTuple):
    """What a check can judge of a table."""

    is_any: bool = True
    small: str = ""
    """How much of it is too small, in words; empty: nothing."""
    why: str = ""


def _judged(connection: duckdb.DuckDBPyConnection, check: Check) -> _Judged:
    if check.scope is None:
        return _Judged()
    query = check.scope.query.replace("{batch}", TABLE)
    try:
        ((enough, parts, why),) = connection.execute(query).fetchall()
    except duckdb.Error:
        return _Judged()  # a column of another type: the check's own query fails on it, and says so
    enough = enough or 0  # of an empty table, some aggregates are null
    small = f"{parts - enough:,} of {parts:,} {check.scope.parts} too small to judge"
    return _Judged(bool(enough), small if enough < parts else "", why or "the table is empty")


def _result(
    check: Check, outcome: ExpectationValidationResult, rows: int, judged: _Judged
) -> CheckResult:
    errors = outcome.exception_info or {}
    raised = [errors] if "raised_exception" in errors else list(errors.values())
    messages = [str(one["exception_message"]) for one in raised if one["raised_exception"]]
    value = outcome.result.get("observed_value")
    details = outcome.result.get("details") or {}
    sample = details.get("unexpected_rows", []) if isinstance(details, dict) else []
    unexpected = share = None
    passed = bool(outcome.success)
    observed = f"observed {value}"
    if messages:
        passed, observed = False, f"could not be evaluated, {messages[0].splitlines()[0]}"
    elif "unexpected_rows_query" in check.expectation.success_keys:
        unexpected = int(str(value))
        observed = f"{unexpected:,} found"
        if check.failing:
            share = unexpected / rows if rows else 0.0
            passed = share <= check.tolerance
            observed = f"{unexpected:,} rows ({share:.2%})"
            if check.tolerance:
                observed += f", {check.tolerance:.2%} tolerated"
    if judged.small:
        observed += f"; {judged.small}"
    return CheckResult(
        **_fields(check),
        passed=passed,
        unexpected=unexpected,
        share=share,
        observed=observed,
        sample=tuple(_plain(row) for row in sample[:SAMPLE]),
    )


def _not_applied(check: Check, why: str) -> CheckResult:
    observed = f"not applied, {why}"
    return CheckResult(
        **_fields(check), passed=None, unexpected=None, share=None, observed=observed
    )


def _not_run(check: Check, missing: Sequence[str]) -> CheckResult:
    observed = f"not checked, the table has no column {', '.join(missing)}"
    return CheckResult(
        **_fields(check), passed=False, unexpected=None, share=None, observed=observed
    )


def _fields(check: Check) -> dict[str, Any]:
    return {
        "check": check.name,
        "columns": check.columns,
        "severity": check.severity,
        "tolerance": check.tolerance,
        "remedy": check.remedy,
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, int | float | None) else str(v) for k, v in row.items()}


def _quarantine(
    connection: duckdb.DuckDBPyConnection,
    checks: Sequence[Check],
    report: CheckReport,
    settings: Settings,
) -> Path | None:
    """Copy the rows that break blocking checks, in the columns of the ingestion's quarantine."""
    blocked = {result.check for result in report.blocking if result.unexpected}
    failing = [check for check in checks if check.name in blocked and check.failing]
    if not failing:
        return None
    run = fingerprint(report.source, report.rows, [r.model_dump() for r in report.results])[:12]
    folder = settings.quarantine / f"check-{report.table}-{run}"
    columns = [name for name, *_ in connection.execute(f"DESCRIBE {TABLE}").fetchall()]
    shopper = "user_id" if "user_id" in columns else "CAST(NULL AS VARCHAR)"
    selects = [
        f"SELECT '{report.table}' AS file, CAST(NULL AS BIGINT) AS row, '{check.name}' AS reason, "
        f"'{', '.join(check.columns)}' AS \"column\", CAST(NULL AS VARCHAR) AS value, "
        f"CAST(to_json({TABLE}) AS VARCHAR) AS raw, {shopper} AS user_id "
        f"FROM {TABLE} WHERE {check.failing}"
        for check in failing
    ]
    with replacing(folder / "rows.parquet") as file:
        connection.execute(
            f"COPY ({' UNION ALL '.join(selects)}) TO {literal(file)} "
            "(FORMAT parquet, COMPRESSION zstd)"
        )
    return folder


def _append(report: CheckReport, settings: Settings) -> None:
    rows = [
        {
            "table": report.table,
            "checked_at": report.checked_at,
            "rows": report.rows,
            **result.model_dump(exclude={"check", "columns", "sample"}),
            "rule": result.check,
            "columns": ", ".join(result.columns),
            "sample": json.dumps(result.sample, default=str),
            "quarantine": str(report.quarantine) if report.quarantine else None,
        }
        for result in report.results
    ]
    reports.append(settings, reports.CHECKS, rows, report.checked_at)


def _glob(files: str | Path) -> str:
    path = Path(files)
    return f"{path}/**/*.parquet" if path.is_dir() else str(files)
