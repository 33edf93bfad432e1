"""Verbs of live events: replay, merge-live, parity, and `nextbuy live` for those that wait."""

from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextbuy.cli.app import app, console, one_writer, print_line, print_next_steps, quiet_libraries
from nextbuy.errors import NextbuyError
from nextbuy.network import key_headers
from nextbuy.settings import Settings
from nextbuy.times import to_datetime, utc

if TYPE_CHECKING:
    from nextbuy.live.event_store import LiveStore

MAX_PRINTED = 20
"""Events and shoppers set apart that are printed."""


class LiveAction(StrEnum):
    """What `nextbuy live` does."""

    STATUS = "status"
    RETRY = "retry"
    DISCARD = "discard"


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
    if staged.set_apart:
        print_line(f"{staged.set_apart:,} are no valid events and were set apart")
        print_next_steps("nextbuy live status", "nextbuy sessionize")
    else:
        print_next_steps("nextbuy sessionize")


@app.command(name="live")
def live_events(
    action: Annotated[
        LiveAction, typer.Argument(help="status shows; retry and discard act on what is set apart.")
    ] = LiveAction.STATUS,
    event_ids: Annotated[
        list[str] | None, typer.Argument(help="Ids of events set apart; retry: none for all.")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="Discard all events that are set apart.")
    ] = False,
) -> None:
    """Show what live events wait, and retry or discard those that could not be worked off.

    An event that the live worker cannot work off is set apart with its error, and everybody
    else's features go on. `retry` lets it arrive again, once its cause is removed; `discard`
    removes it for good.

    Example: `nextbuy live retry`
    """
    from nextbuy.live.event_store import LiveStore
    from nextbuy.live.health import live_health
    from nextbuy.live.set_apart import discard, retry

    settings = Settings()
    health = live_health(settings)
    if health is None:
        print_line("no live event has come yet")
        print_next_steps("nextbuy serve")
        return
    with LiveStore(settings) as store:
        if action is LiveAction.RETRY:
            print_line(f"{retry(store, event_ids or ()):,} events arrive again")
        elif action is LiveAction.DISCARD:
            if not event_ids and not every:
                raise NextbuyError(
                    "Name the events to discard, or all that are set apart: "
                    "nextbuy live discard --all"
                )
            print_line(f"{discard(store, event_ids or ()):,} events discarded")
        else:
            for line in str(health).splitlines():
                print_line(line)
        is_left = _print_set_apart(store)
    if is_left and action is not LiveAction.RETRY:
        print_next_steps("nextbuy live retry", "nextbuy live discard ID")
    else:
        print_next_steps("nextbuy live status")


def _print_set_apart(store: "LiveStore") -> bool:
    """Print what is set apart, the latest first; whether there is anything."""
    from nextbuy.live.set_apart import events_apart, shoppers_apart

    events, shoppers = events_apart(store), shoppers_apart(store)
    for each in events[:MAX_PRINTED]:
        event = each.event
        print_line(
            f"set apart at {to_datetime(each.set_apart_us):%Y-%m-%d %H:%M:%S} UTC: "
            f"{event.event_id!r} ({event.event_type} of {event.user_id!r}): {each.error}"
        )
    for user, error in list(shoppers.items())[:MAX_PRINTED]:
        print_line(f"shopper {user!r} waits for the next batch build: {error}")
    if max(len(events), len(shoppers)) > MAX_PRINTED:
        print_line("more are on the dashboard's page Live")
    return bool(events or shoppers)


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
