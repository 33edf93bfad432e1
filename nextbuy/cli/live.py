"""Verbs of live events: replay, merge-live, parity, forget."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from nextbuy.cli.app import app, console, one_writer, print_line, print_next_steps, quiet_libraries
from nextbuy.errors import NextbuyError
from nextbuy.network import key_headers
from nextbuy.settings import Settings
from nextbuy.times import utc


@app.command()
def replay(
    logs: Annotated[list[Path], typer.Argument(help="Files of canonical events, in order.")],
    url: Annotated[str, typer.Option(help="The service.")] = "http://127.0.0.1:3000",
    speed: Annotated[
        float | None, typer.Option(help="Times real speed; none: as fast as the service accepts.")
    ] = None,
    predict: Annotated[
        bool, typer.Option(help="Request a prediction for the shoppers of each batch too.")
    ] = False,
) -> None:
    """Send a log to the running service, event by event in its order.

    Example: `nextbuy replay data/demo/raw/simulated/arrival=2024-06-28.parquet --speed 600`
    """
    from generators.replay import replay as run

    with console.status("replaying") as status:
        report = run(
            logs,
            url,
            speed=speed,
            predict=predict,
            headers=key_headers(),
            progress=lambda done, total: status.update(f"replayed {done:,} of {total:,} events"),
        )
    for line in str(report).splitlines():
        print_line(line)
    print_next_steps("nextbuy parity", "nextbuy merge-live")


@app.command()
@one_writer
def merge_live() -> None:
    """Merge the live events into the published ones, for the next build of sessions and features.

    Events that fail a blocking check are not published; the live store keeps them.

    Example: `nextbuy merge-live`
    """
    quiet_libraries()
    from monitoring.checks import check_events, raise_if_blocked
    from nextbuy.live.merge import publish, stage_live_events

    settings = Settings()
    with console.status("merging live events"), stage_live_events(settings) as staged:
        if staged.count:
            raise_if_blocked(check_events(staged.file, settings))
        publish(staged)
    print_line(
        f"{staged.count:,} live events published" if staged.count else "nothing new to publish"
    )
    print_next_steps("nextbuy sessionize")


@app.command(hidden=True)
def absorb() -> None:
    """Old name of `nextbuy merge-live`; it is removed in the next version.

    Example: `nextbuy absorb`
    """
    print_line("nextbuy absorb is now called nextbuy merge-live; use that name from now on")
    merge_live()


@app.command()
def parity(
    since: Annotated[
        datetime | None, typer.Option(help="Only predictions since this moment (UTC).")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Largest share of differing values that still passes.")
    ] = 0.0,
    json: Annotated[Path | None, typer.Option(help="Also write the report to this file.")] = None,
) -> None:
    """Compare the values the service used with what training retrieves; exit 1 if any differ.

    All of Redis is searched too, for keys that no table has and no live event wrote: exit 1 if
    there are any. Example: `nextbuy parity --json build/parity.json`
    """
    quiet_libraries()
    from monitoring.parity import parity as run
    from monitoring.strays import stray_keys

    with console.status("searching Redis"):
        strays = stray_keys(Settings())
    for view, count in strays.items():
        print_line(f"{view}: {count:,} keys in Redis that no table has and no live event wrote")
    with console.status("comparing"):
        report = run(Settings(), utc(since) if since else None)
    for line in str(report).splitlines():
        print_line(line)
    if json:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(report.model_dump_json(indent=1))
    if report.mismatches > threshold * report.values:
        raise NextbuyError(
            f"{report.mismatches:,} values that the service used are not what training computes. "
            f"The rows are in {Settings().reports / 'parity.json'}."
        )
    if strays:
        raise NextbuyError(
            f"{sum(strays.values()):,} keys in Redis should not be there, and are served. Remove "
            "them: nextbuy materialize --full"
        )
    print_next_steps("nextbuy monitor")
