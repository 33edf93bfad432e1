"""Runs a suite of rules over a table inside DuckDB, and keeps what it found.

Great Expectations evaluates; DuckDB computes; nothing of the table enters Python but the sample
rows that a message shows.
"""

import json
import warnings
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import great_expectations as gx
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from pydantic import BaseModel, ConfigDict, Field

import nextbuy.telemetry  # noqa: F401  # before Great Expectations looks at the environment
from monitoring import reports
from monitoring.bounds import Severity
from monitoring.config import MonitoringConfig, load_config
from monitoring.ge_duckdb import URL, cursors
from monitoring.rules import Rule, configured
from monitoring.suites.events import event_rules
from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.sql import literal
from nextbuy.versioned_table import fingerprint

SAMPLE = 5
"""Rows that a result shows."""
TABLE = "checked"


class RuleResult(BaseModel):
    """What became of one rule."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rule: str
    columns: tuple[str, ...]
    severity: Severity
    tolerance: float
    """Share of rows that may break the rule."""
    passed: bool
    unexpected: int | None
    """Rows (or groups) that break it; None where the rule looks at the table as a whole."""
    share: float | None
    """`unexpected` over all rows, where rows are counted."""
    observed: str
    """What was seen, in words."""
    remedy: str
    sample: tuple[dict[str, Any], ...] = ()

    def __str__(self) -> str:
        columns = f" ({', '.join(self.columns)})" if self.columns else ""
        text = f"{self.rule}{columns}: {self.observed}."
        if self.sample:
            text += f" For example {json.dumps(self.sample[0], default=str)}."
        return f"{text} {self.remedy}"


class CheckReport(BaseModel):
    """All rules of one table at one moment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    source: str
    checked_at: datetime
    rows: int
    results: tuple[RuleResult, ...]
    quarantine: Path | None = None
    """Where the rows that break blocking rules were copied to."""
    outcome: Any = Field(default=None, exclude=True, repr=False)
    """Great Expectations' own result, for its Data Docs."""

    @property
    def blocking(self) -> list[RuleResult]:
        """Failed rules that keep the table from being published."""
        return [r for r in self.results if not r.passed and r.severity == "block"]

    @property
    def warnings(self) -> list[RuleResult]:
        """Failed rules that are only told."""
        return [r for r in self.results if not r.passed and r.severity == "warn"]


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
        now: the moment against which the future is told, instead of the clock's.

    Raises:
        NextbuyError: there is no file, or one is no Parquet.
    """
    config, now = config or load_config(), now or datetime.now(UTC)
    return check("events", files, event_rules(now, config.events), settings, config, now)


def check(
    table: str,
    files: str | Path | Sequence[Path],
    rules: Sequence[Rule],
    settings: Settings,
    config: MonitoringConfig,
    now: datetime,
    *,
    only: Severity | None = None,
) -> CheckReport:
    """Run `rules` over Parquet files, keep the report, and copy rows that block to quarantine.

    `only` leaves out the rules of the other severity.

    Raises:
        NextbuyError: there is no file, one is no Parquet, or the configuration names no rule.
    """
    rules = configured(table, rules, config.checks.get(table, {}))
    rules = [rule for rule in rules if only in (None, rule.severity)]
    globs = [_glob(file) for file in ([files] if isinstance(files, str | Path) else files)]
    listed = ", ".join(map(literal, globs))
    source = globs[0] if len(globs) == 1 else f"{Path(globs[0]).parents[1]} ({len(globs)} days)"
    with duckdb_connection(settings) as connection:
        try:
            connection.execute(
                f"CREATE VIEW {TABLE} AS SELECT * FROM read_parquet([{listed}], "
                "hive_partitioning = false, union_by_name = true)"
            )
            found = [name for name, *_ in connection.execute(f"DESCRIBE {TABLE}").fetchall()]
            rows = int(connection.execute(f"SELECT count(*) FROM {TABLE}").fetchall()[0][0])
        except duckdb.Error as error:
            raise NextbuyError(
                f"{table} cannot be checked, {source} is not readable as Parquet: {error}"
            ) from error
        able = [rule for rule in rules if set(rule.columns) <= set(found)]
        outcome = _validate(connection, able, table)
        by_rule = {_name(result): result for result in outcome.results}
        results = tuple(
            _judge(rule, by_rule[rule.name], rows)
            if rule.name in by_rule
            else _unable(rule, sorted(set(rule.columns) - set(found)))
            for rule in rules
        )
        report = CheckReport(table=table, source=source, checked_at=now, rows=rows, results=results)
        folder = _quarantine(connection, rules, report, settings)
    report = report.model_copy(update={"quarantine": folder, "outcome": outcome})
    _keep(report, settings)
    return report


def gate(report: CheckReport) -> None:
    """Keep out what breaks a blocking rule.

    Raises:
        NextbuyError: names the rules, their columns, how many rows break them, and the remedies.
    """
    if not report.blocking:
        return
    lines = "\n".join(f"  {result}" for result in report.blocking)
    text = (
        f"{report.table} ({report.rows:,} rows) break {len(report.blocking)} of "
        f"{len(report.results)} rules and are not published:\n{lines}"
    )
    if report.quarantine:
        text += f"\nThe rows are in {report.quarantine}."
    raise NextbuyError(
        f"{text}\nMend the data, or change a rule's severity or tolerance in "
        f"configs/monitoring.yaml under checks.{report.table}."
    )


def _validate(
    connection: duckdb.DuckDBPyConnection, rules: Sequence[Rule], name: str
) -> ExpectationSuiteValidationResult:
    stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)  # no leftovers in /tmp
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=stores, progress_bars=ProgressBarsConfig(globally=False)
        ),
    )
    source = context.data_sources.add_sql(
        "duckdb",
        connection_string=URL,
        create_temp_table=False,
        # Their stub knows of it only in some orders of import.
        kwargs={"creator": cursors(connection)},  # type: ignore[call-arg, unused-ignore]
    )
    batch = source.add_table_asset(TABLE, table_name=TABLE).add_batch_definition_whole_table("all")
    suite = context.suites.add(gx.ExpectationSuite(name))
    for rule in rules:
        severity = "critical" if rule.severity == "block" else "warning"
        expectation = rule.expectation.copy(
            update={"meta": {"rule": rule.name}, "severity": severity}
        )
        suite.add_expectation(expectation)
    definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
    definition = context.validation_definitions.add(definition)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about types that our dialect leaves open, on purpose
        return definition.run(result_format="COMPLETE")


def _name(result: ExpectationValidationResult) -> str:
    assert result.expectation_config is not None
    return str((result.expectation_config.meta or {})["rule"])


def _judge(rule: Rule, outcome: ExpectationValidationResult, rows: int) -> RuleResult:
    trouble = outcome.exception_info or {}
    raised = [trouble] if "raised_exception" in trouble else list(trouble.values())
    messages = [str(one["exception_message"]) for one in raised if one["raised_exception"]]
    value = outcome.result.get("observed_value")
    details = outcome.result.get("details") or {}
    sample = details.get("unexpected_rows", []) if isinstance(details, dict) else []
    unexpected = share = None
    passed = bool(outcome.success)
    observed = f"observed {value}"
    if messages:
        passed, observed = False, f"could not be evaluated, {messages[0].splitlines()[0]}"
    elif "unexpected_rows_query" in rule.expectation.success_keys:
        unexpected = int(str(value))
        observed = f"{unexpected:,} found"
        if rule.failing:
            share = unexpected / rows if rows else 0.0
            passed = share <= rule.tolerance
            observed = f"{unexpected:,} rows ({share:.2%})"
            if rule.tolerance:
                observed += f", {rule.tolerance:.2%} tolerated"
    return RuleResult(
        **_identity(rule),
        passed=passed,
        unexpected=unexpected,
        share=share,
        observed=observed,
        sample=tuple(_plain(row) for row in sample[:SAMPLE]),
    )


def _unable(rule: Rule, missing: Sequence[str]) -> RuleResult:
    observed = f"not checked, there is no column {', '.join(missing)}"
    return RuleResult(
        **_identity(rule), passed=False, unexpected=None, share=None, observed=observed
    )


def _identity(rule: Rule) -> dict[str, Any]:
    return {
        "rule": rule.name,
        "columns": rule.columns,
        "severity": rule.severity,
        "tolerance": rule.tolerance,
        "remedy": rule.remedy,
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v if isinstance(v, int | float | None) else str(v) for k, v in row.items()}


def _quarantine(
    connection: duckdb.DuckDBPyConnection,
    rules: Sequence[Rule],
    report: CheckReport,
    settings: Settings,
) -> Path | None:
    """Copy the rows that break blocking rules, in the columns of the ingestion's quarantine."""
    blocked = {result.rule for result in report.blocking if result.unexpected}
    failing = [rule for rule in rules if rule.name in blocked and rule.failing]
    if not failing:
        return None
    run = fingerprint(report.source, report.rows, [r.model_dump() for r in report.results])[:12]
    folder = settings.quarantine / f"check-{report.table}-{run}"
    folder.mkdir(parents=True, exist_ok=True)
    selects = [
        f"SELECT '{report.table}' AS file, CAST(NULL AS BIGINT) AS row, '{rule.name}' AS reason, "
        f"'{', '.join(rule.columns)}' AS \"column\", CAST(NULL AS VARCHAR) AS value, "
        f"CAST(to_json({TABLE}) AS VARCHAR) AS raw FROM {TABLE} WHERE {rule.failing}"
        for rule in failing
    ]
    new = folder / ".rows.parquet"
    connection.execute(
        f"COPY ({' UNION ALL '.join(selects)}) TO {literal(str(new))} "
        "(FORMAT parquet, COMPRESSION zstd)"
    )
    new.rename(folder / "rows.parquet")
    return folder


def _keep(report: CheckReport, settings: Settings) -> None:
    rows = [
        {
            "table": report.table,
            "checked_at": report.checked_at,
            "rows": report.rows,
            **result.model_dump(exclude={"columns", "sample"}),
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
