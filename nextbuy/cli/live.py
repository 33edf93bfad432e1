"""Verbs of the live loop: replay, absorb, parity, forget."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from nextbuy.cli.app import app, console, quiet_libraries, say, what_next
from nextbuy.errors import NextbuyError
from nextbuy.network import key_headers
from nextbuy.settings import Settings
from nextbuy.times import utc


@app.command()
def replay(
    logs: Annotated[list[Path], typer.Argument(help="Files of canonical events, in order.")],
    url: Annotated[str, typer.Option(help="The service.")] = "http://127.0.0.1:3000",
    speed: Annotated[
        float | None, typer.Option(help="Times faster than it happened; none: as fast as taken.")
    ] = None,
    predict: Annotated[
        bool, typer.Option(help="Ask for predictions for the shoppers of each request.")
    ] = False,
) -> None:
    """Play a log against the running service, event by event as it was.

    Example: `nextbuy replay data/raw/simulated/arrival=2024-06-28.parquet --speed 600`
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
        say(line)
    what_next("nextbuy parity", "nextbuy absorb")


@app.command()
def absorb() -> None:
    """Add the live events to the published ones, for the next build of sessions and features.

    Events that break a blocking rule are not published; the live store keeps them.

    Example: `nextbuy absorb`
    """
    quiet_libraries()
    from monitoring.checks import check_events, gate
    from nextbuy.live.merge import absorb as run

    settings = Settings()
    with console.status("absorbing"):
        count = run(settings, gate=lambda new: gate(check_events(new, settings)))
    say(f"{count:,} live events published" if count else "nothing new to publish")
    what_next("nextbuy sessionize")


@app.command()
def parity(
    since: Annotated[
        datetime | None, typer.Option(help="Only predictions from this moment on (UTC).")
    ] = None,
    threshold: Annotated[
        float, typer.Option(help="Share of differing values that is put up with.")
    ] = 0.0,
    json: Annotated[Path | None, typer.Option(help="Write the report here as well.")] = None,
) -> None:
    """Compare what the service saw with what training would retrieve; exit 1 where it differs.

    Example: `nextbuy parity --json build/parity.json`
    """
    quiet_libraries()
    from monitoring.parity import parity as run

    with console.status("comparing"):
        report = run(Settings(), utc(since) if since else None)
    for line in str(report).splitlines():
        say(line)
    if json:
        json.parent.mkdir(parents=True, exist_ok=True)
        json.write_text(report.model_dump_json(indent=1))
    if report.mismatches > threshold * report.values:
        raise NextbuyError(
            f"{report.mismatches:,} values that the service used are not what training computes. "
            f"The rows are in {Settings().reports / 'parity.json'}."
        )
    what_next("nextbuy monitor")


@app.command()
def forget(user: Annotated[str, typer.Argument(help="The shopper's id.")]) -> None:
    """Remove a person from every table, log and store, and prove it by a search.

    Example: `nextbuy forget u000042`
    """
    from nextbuy.maintenance.erase import forget as run

    with console.status("forgetting"):
        proof = run(Settings(), user)
    for line in str(proof).splitlines():
        say(line)
    if proof.left:
        raise NextbuyError("The id is still there; run the command again.")
    what_next("nextbuy sessionize")
