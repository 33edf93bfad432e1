"""`nextbuy daily`: the daily pipeline as one command that can be repeated."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from nextbuy.atomic import write_text
from nextbuy.cli import data, live, model, monitoring, serving
from nextbuy.cli.app import app, one_writer, print_line, print_next_steps, quiet_libraries, stage
from nextbuy.cli.config import ConfigFile, Rebuild, check_config
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings

T = TypeVar("T")

RUN_RECORDS = 60
"""How many run records are kept; older ones are deleted."""
RETRAIN_ALERTS = ("performance", "calibration", "drift")
"""Alerts that trigger a retraining before the champion is old."""


@app.command()
@one_writer
def daily(
    logs: Annotated[
        list[str] | None, typer.Argument(help="New logs, files or globs; none: live events only.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Mapping of the logs, by name or file.")
    ] = None,
    config: ConfigFile = None,
    rebuild: Rebuild = False,
    retrain_days: Annotated[
        float, typer.Option(min=0, help="Train a challenger when the champion is older (days).")
    ] = 7,
    at: Annotated[
        str | None, typer.Option(help="Monitor as of this moment (ISO, UTC), or `newest` (event).")
    ] = None,
) -> None:
    """Run the daily pipeline: ingest, sessions, features, Feast, Redis, monitoring, retraining.

    After a failure run it again: finished stages are skipped, the others run. Only one run at a
    time. Each run writes a record to `runs/` of the data folder. A challenger is trained when it is
    due, and promoted if it passes every gate; a running service loads it with `nextbuy reload`.
    Exit 1 if a stage or monitoring fails.

    Example: `nextbuy daily 'logs/2024-07-01.csv.gz' --source rees46`
    """
    if logs and source is None:
        raise NextbuyError("New logs need their mapping: --source NAME or FILE.")
    quiet_libraries()
    settings = Settings()
    check_config(config, rebuild=rebuild)
    monitoring.moment_of(at)
    if logs:
        data.check_log(logs, str(source))
    run = _Run(settings.data / "runs", {"logs": logs or [], "source": source})
    if (settings.live / "events.sqlite").exists():
        run.step("merge live events", live.merge_live)
    if logs:
        run.step("ingest", lambda: data.ingest(logs, str(source)))
    run.step("sessions and labels", lambda: data.sessionize(config, rebuild))
    run.step("feature tables", data.features)
    run.step("feast apply", serving.apply)
    run.step("feast materialize", serving.materialize)
    report = run.step("monitor", lambda: monitoring.run_monitor(at, pages=True))
    promoted = False
    why = _due(settings, retrain_days, [alert.name for alert in report.raised])
    if why:
        print_line(f"a new model is due: {why}")
        run.step("train a challenger", lambda: model.train(config))
        promoted = run.step("promote, if it passes", lambda: _promoted(config))
    run.end(monitor=report.exit_code)
    print_next_steps("nextbuy reload" if promoted else "nextbuy dashboard")
    raise typer.Exit(report.exit_code)


def _due(settings: Settings, retrain_days: float, alerts: list[str]) -> str | None:
    """Why a new model should be trained; None if there is no reason."""
    from nextbuy.contract import CHAMPION
    from nextbuy.models import registry

    champion = registry.version_of(registry.client(settings), CHAMPION)
    if champion is None:
        return "no model is champion yet"
    triggers = [name for name in RETRAIN_ALERTS if name in alerts]
    if triggers:
        return f"{', '.join(triggers)} raised"
    age = datetime.now(UTC) - datetime.fromtimestamp(champion.creation_timestamp / 1000, UTC)
    if age >= timedelta(days=retrain_days):
        return f"the champion is {age.total_seconds() / 86400:.1f} days old"
    return None


def _promoted(config: Path | None) -> bool:
    """Whether the challenger became champion; failing a gate does not fail the run."""
    try:
        return model.promote(config)
    except NextbuyError as error:
        print_line(str(error))
        return False


def _read(file: Path) -> dict[str, Any] | None:
    """A run's record; None if it is damaged, since nothing depends on it."""
    try:
        record: dict[str, Any] = json.loads(file.read_text())
    except ValueError:
        print_line(f"{file} is damaged and ignored")
        return None
    return record


class _Run:
    """The record of one run, written to disk after every step."""

    def __init__(self, folder: Path, arguments: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        records = sorted(folder.glob("*.json"))
        for old in records[: max(0, len(records) - RUN_RECORDS + 1)]:
            old.unlink()
        last = _read(records[-1]) if records else None
        now = datetime.now(UTC)
        self._file = folder / f"{now:%Y-%m-%dT%H-%M-%S.%f}.json"
        if records and self._file.name <= records[-1].name:
            print_line(
                f"the clock says {now:%Y-%m-%d %H:%M} UTC, before the last run's beginning "
                f"({records[-1].stem}). If it is wrong, set it; this run is filed after that one."
            )
            self._file = folder / f"{records[-1].stem}_.json"  # keeps the order of the runs
        self._record: dict[str, Any] = {"began": now.isoformat(), **arguments, "steps": []}
        if last and last.get("ended") is None:
            broken = last["steps"][-1]["name"] if last["steps"] else "its beginning"
            print_line(
                f"the run of {last['began'][:16]} ended in {broken!r}; this one resumes there"
            )
            self._record["goes_on_from"] = last["began"]
        self._write()

    def step(self, name: str, work: Callable[[], T]) -> T:
        """Run one step and record its times and outcome."""
        with stage(name), self._noted(name) as note:
            result = work()
            if isinstance(result, bool):
                note["result"] = result
            return result

    def end(self, **result: Any) -> None:
        """Record that the run has ended."""
        self._record |= {"ended": datetime.now(UTC).isoformat(), **result}
        self._write()

    @contextmanager
    def _noted(self, name: str) -> Iterator[dict[str, Any]]:
        note: dict[str, Any] = {"name": name, "began": datetime.now(UTC).isoformat()}
        self._record["steps"].append(note)
        self._write()
        try:
            yield note
        except BaseException as error:
            note["error"] = str(error) or type(error).__name__
            raise
        finally:
            note["ended"] = datetime.now(UTC).isoformat()
            self._write()

    def _write(self) -> None:
        write_text(self._file, json.dumps(self._record, indent=1))
