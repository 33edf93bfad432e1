"""Verbs of monitoring: check, monitor, dashboard."""

import os
import shlex
import shutil
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextbuy.cli.app import app, console, print_line, print_next_steps, quiet_libraries
from nextbuy.errors import NextbuyError
from nextbuy.network import check_free
from nextbuy.settings import PROJECT, Settings
from nextbuy.times import utc

if TYPE_CHECKING:
    from monitoring.checks import CheckReport
    from monitoring.run import MonitorReport

NEWEST = "newest"


@app.command()
def check(
    logs: Annotated[
        list[str] | None,
        typer.Argument(help="Files or globs of a log; none: the tables published here."),
    ] = None,
    source: Annotated[str | None, typer.Option(help="Mapping of the log, by name or file.")] = None,
    docs: Annotated[
        bool, typer.Option("--docs", help="Also write Great Expectations' Data Docs.")
    ] = False,
) -> None:
    """Check a log or the published tables; exit 1 if a blocking check fails.

    A log is mapped and checked in a temporary folder: nothing is published.

    Example: `nextbuy check 'logs/*.csv.gz' --source rees46`
    """
    quiet_libraries()
    from monitoring.checks import write_docs
    from monitoring.config import load_config
    from monitoring.table_checks import check_published

    settings, config = Settings(), load_config()
    checked: list[CheckReport]
    if logs:
        if source is None:
            raise NextbuyError("A log needs its mapping: --source NAME or FILE.")
        with console.status("checking"):
            checked = [_check_log(logs, source, settings)]
    else:
        with console.status("checking") as status:
            checked = check_published(
                settings, config, progress=lambda table: status.update(f"checking {table}")
            )
        if not checked:
            raise NextbuyError(
                f"Nothing is published in {settings.data}. Run: nextbuy ingest LOG --source NAME"
            )
    for report in checked:
        print_line(f"{report.table:<14} {report.rows:>11,} rows pass {report.tally}")
        for result in report.blocking:
            print_line(f"  block {result}")
        for result in report.warnings:
            print_line(f"  warn  {result}")
        for result in report.not_applied:
            print_line(f"  small {result}")
    if docs:
        print_line(f"Data Docs: {write_docs(checked, settings)}")
    blocked = any(report.blocking for report in checked)
    if logs and not blocked:
        print_next_steps(f"nextbuy ingest {shlex.join(logs)} --source {source}")
    else:
        print_next_steps("nextbuy dashboard")
    raise typer.Exit(int(blocked))


def _check_log(logs: list[str], source: str, settings: Settings) -> "CheckReport":
    """Map the log in a folder of its own; reports and quarantine go to the usual places."""
    from monitoring.checks import check_events
    from nextbuy.cli.data import source_file
    from nextbuy.ingest.ingest import stage_events
    from nextbuy.ingest.source import load_sources

    with tempfile.TemporaryDirectory(prefix="nextbuy-check-") as folder:
        temporary = Settings(
            data=Path(folder), memory_limit=settings.memory_limit, threads=settings.threads
        )

        def with_usual_paths(text: object) -> str:
            return str(text).replace(str(temporary.quarantine), str(settings.quarantine))

        try:
            with stage_events(logs, load_sources(source_file(source)), temporary) as staged:
                assert staged.file is not None  # a log without any event is refused
                checked = check_events(staged.file, settings)
        except NextbuyError as error:
            raise NextbuyError(with_usual_paths(error)) from error
        finally:
            for refused in temporary.quarantine.glob("*"):
                shutil.rmtree(settings.quarantine / refused.name, ignore_errors=True)
                shutil.copytree(refused, settings.quarantine / refused.name)
    for line in with_usual_paths(staged.report).splitlines():
        print_line(line)
    return checked


@app.command()
def monitor(
    at: Annotated[
        str | None,
        typer.Option(help="Look as of this moment (ISO, UTC), or `newest`: the newest event's."),
    ] = None,
    pages: Annotated[
        bool,
        typer.Option(
            help="Write Evidently's full report (reports/evidently.html), a plot or two a column."
        ),
    ] = True,
) -> None:
    """Check tables, days, drift and predictions, and evaluate the alert rules.

    Exit 1 if a check fails, or if an alert of level `fail` is raised and not acknowledged.
    Rules: `configs/monitoring.yaml`. Webhook: NEXTBUY_ALERT_WEBHOOK. Acknowledge and silence:
    `alerts.yaml` in the data folder.

    Example: `nextbuy monitor --at newest`
    """
    raise typer.Exit(run_monitor(at, pages).exit_code)


def moment_of(at: str | None) -> datetime | None:
    """The moment that --at names; None for now and for `newest`.

    Raises:
        NextbuyError: it is no moment.
    """
    try:
        return utc(datetime.fromisoformat(at)) if at and at != NEWEST else None
    except ValueError:
        raise NextbuyError(
            f"--at {at} is no moment. Write it like 2024-01-31T12:00 (UTC), or newest."
        ) from None


def run_monitor(at: str | None, pages: bool) -> "MonitorReport":
    """Run it, and print what it found."""
    quiet_libraries()
    moment = moment_of(at)
    from monitoring.run import monitor as run
    from monitoring.run import newest_event

    settings = Settings()
    if at == NEWEST:
        moment = newest_event(settings)
    with console.status("monitoring") as status:
        report = run(settings, moment, pages=pages, progress=status.update)
    for line in str(report).splitlines():
        print_line(line)
    print_next_steps("nextbuy dashboard")
    return report


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8501,
) -> None:
    """Open the dashboard until Ctrl-C.

    The same as `streamlit run monitoring/dashboard/app.py`. Example: `nextbuy dashboard`
    """
    check_free("127.0.0.1", port)
    app_file = PROJECT / "monitoring" / "dashboard" / "app.py"
    command = [sys.executable, "-m", "streamlit", "run", str(app_file), f"--server.port={port}"]
    # In place of this process, so that whatever ends it ends Streamlit; from the root, where
    # Streamlit finds .streamlit/config.toml.
    os.chdir(PROJECT)
    os.execv(sys.executable, command)
