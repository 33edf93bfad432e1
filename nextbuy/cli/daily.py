"""`nextbuy daily`: everything that a new day asks for, as one run that can be repeated."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from nextbuy.cli import data, live, model, monitoring, serving
from nextbuy.cli.app import app, quiet_libraries, say, stage, what_next
from nextbuy.cli.config import ConfigFile
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.versioned_table import lock

T = TypeVar("T")

KEPT = 60
"""Run records that stay; the oldest go."""
RETRAIN_ALERTS = ("performance", "calibration", "drift")
"""Alerts that ask for a new model before its time."""


@app.command()
def daily(
    logs: Annotated[
        list[str] | None, typer.Argument(help="New logs, files or globs; none: live events only.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(help="Mapping of the logs, by name or file.")
    ] = None,
    config: ConfigFile = None,
    retrain_days: Annotated[
        float, typer.Option(min=0, help="Age of the champion from which on a rival is trained.")
    ] = 7,
    at: Annotated[
        str | None, typer.Option(help="Monitor as of this moment (ISO, UTC), or `newest`.")
    ] = None,
) -> None:
    """Take in a day: ingest, sessions, features, Feast, Redis, monitoring; retrain when it is due.

    Run it again after a failure: what is done stays done, the rest is made up for. One run at a
    time. Each run leaves a record in `runs/` of the data folder. A rival that passes every gate is
    promoted; a service takes it over with `nextbuy reload`. Exit 1 where a stage or monitoring
    fails.

    Example: `nextbuy daily 'logs/2024-07-01.csv.gz' --source rees46`
    """
    if logs and source is None:
        raise NextbuyError("New logs need their mapping: --source NAME or FILE.")
    quiet_libraries()
    settings = Settings()
    settings.data.mkdir(parents=True, exist_ok=True)
    with lock(settings.data / "daily.lock", "Another daily run is at work"):
        run = _Run(settings.data / "runs", {"logs": logs or [], "source": source})
        if (settings.live / "events.sqlite").exists():
            run.step("absorb live events", live.absorb)
        if logs:
            run.step("ingest", lambda: data.ingest(logs, str(source)))
        run.step("sessions and labels", lambda: data.sessionize(config))
        run.step("feature tables", data.features)
        run.step("feast apply", serving.apply)
        run.step("feast materialize", serving.materialize)
        report = run.step("monitor", lambda: monitoring.run_monitor(at, pages=True))
        promoted = False
        why = _due(settings, retrain_days, [alert.name for alert in report.raised])
        if why:
            say(f"a new model is due: {why}")
            run.step("train a rival", lambda: model.train(config))
            promoted = run.step("promote, if it passes", lambda: _promoted(config))
        run.end(monitor=report.exit_code)
    what_next("nextbuy reload" if promoted else "nextbuy dashboard")
    raise typer.Exit(report.exit_code)


def _due(settings: Settings, retrain_days: float, alerts: list[str]) -> str | None:
    """Why a new model should be trained; None where there is no reason."""
    from nextbuy.contract import CHAMPION
    from nextbuy.models import registry

    champion = registry.behind(registry.client(settings), CHAMPION)
    if champion is None:
        return "there is no champion"
    asking = [name for name in RETRAIN_ALERTS if name in alerts]
    if asking:
        return f"{', '.join(asking)} raised"
    age = datetime.now(UTC) - datetime.fromtimestamp(champion.creation_timestamp / 1000, UTC)
    if age >= timedelta(days=retrain_days):
        return f"the champion is {age.total_seconds() / 86400:.1f} days old"
    return None


def _promoted(config: Path | None) -> bool:
    """Whether the rival is champion now; that it is not good enough is no failure of the day."""
    try:
        model.promote(config)
    except NextbuyError as error:
        say(str(error))
        return False
    return True


def _read(file: Path) -> dict[str, Any] | None:
    """A run's record; None where it is damaged: it decides nothing, so the day goes on without."""
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except ValueError:
        say(f"{file} is damaged and left aside")
        return None
    return found


class _Run:
    """The record of one run, on the disk after every step."""

    def __init__(self, folder: Path, asked: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        records = sorted(folder.glob("*.json"))
        for old in records[: max(0, len(records) - KEPT + 1)]:
            old.unlink()
        last = _read(records[-1]) if records else None
        now = datetime.now(UTC)
        self._file = folder / f"{now:%Y-%m-%dT%H-%M-%S.%f}.json"
        if records and self._file.name <= records[-1].name:
            say(
                f"the clock says {now:%Y-%m-%d %H:%M} UTC, before the last run's beginning "
                f"({records[-1].stem}). If it is wrong, set it; this run is filed after that one."
            )
            self._file = folder / f"{records[-1].stem}_.json"  # names stay in the order of the runs
        self._record: dict[str, Any] = {"began": now.isoformat(), **asked, "steps": []}
        if last and last.get("ended") is None:
            broken = last["steps"][-1]["name"] if last["steps"] else "its beginning"
            say(f"the run of {last['began'][:16]} ended in {broken!r}; this one goes on from there")
            self._record["goes_on_from"] = last["began"]
        self._write()

    def step(self, name: str, work: Callable[[], T]) -> T:
        """Do one step under its name."""
        with stage(name), self._noted(name) as note:
            result = work()
            if isinstance(result, bool):
                note["result"] = result
            return result

    def end(self, **result: Any) -> None:
        """Note that the run came to its end."""
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
        fresh = self._file.with_suffix(".tmp")
        fresh.write_text(json.dumps(self._record, indent=1))
        fresh.rename(self._file)
