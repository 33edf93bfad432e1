"""Verbs of operation: backup, restore, forget."""

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from nextbuy.cli.app import (
    app,
    console,
    one_writer,
    print_line,
    print_next_steps,
    quiet_libraries,
)
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write (.tar.gz).")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the file if it exists already.")
    ] = False,
) -> None:
    """Save registry, settings, MLflow, live events, prediction log and Redis in one archive.

    Tables are not included: the verbs rebuild them from your logs. Nothing needs to be stopped.

    Example: `nextbuy backup /backups/nextbuy-monday.tar.gz`
    """
    from nextbuy.maintenance.backup import backup as run

    if file.exists() and not replace:
        raise NextbuyError(f"{file} exists already. Name another file, or use --replace.")
    with console.status("backup") as status:
        archived = run(Settings(), file, lambda part: status.update(f"backup: {part}"))
    for line in archived:
        print_line(line)
    print_line(f"{file}: {file.stat().st_size:,} bytes")
    print_next_steps(f"nextbuy restore {file}")


@app.command()
@one_writer
def restore(
    file: Annotated[Path, typer.Argument(help="What `nextbuy backup` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace what the data folder already holds.")
    ] = False,
) -> None:
    """Restore a backup into the same data folder or another one. Stop the service first.

    Example: `NEXTBUY_DATA=/data nextbuy restore /backups/nextbuy-monday.tar.gz`
    """
    from nextbuy.maintenance.backup import restore as run

    settings = Settings()
    with console.status("restore") as status:
        restored = run(
            settings, file, lambda part: status.update(f"restore: {part}"), replace=replace
        )
    for line in restored:
        print_line(line)
    if settings.sessions.exists():
        print_next_steps("nextbuy materialize", "nextbuy serve")
    else:  # the service answers from what is restored; everything else needs the tables
        print_next_steps("nextbuy serve", "nextbuy ingest LOG --source NAME")


@app.command()
def forget(
    user: Annotated[str, typer.Argument(help="The shopper's id.")],
    yes: Annotated[
        bool, typer.Option("--yes", help="Remove; without it, only count and name.")
    ] = False,
    keep_linked: Annotated[
        bool,
        typer.Option("--keep-linked", help="Leave the anonymous ids that a log-in links."),
    ] = False,
    also: Annotated[
        list[str] | None,
        typer.Option(help="A linked id to remove too, though it may be another's as well."),
    ] = None,
    unattributed: Annotated[
        bool,
        typer.Option(
            "--unattributed", help="Also refused rows that mention the id and cannot be read."
        ),
    ] = False,
    escaped: Annotated[
        bool, typer.Option("--escaped", help=r"USER is written as in JSON: x\u0000y.")
    ] = False,
) -> None:
    """Remove a person from every table, log and store, and prove it by a search.

    Without --yes it only counts what it would remove, and names the anonymous ids that log-ins
    link to the person: they go along. Rows of other shoppers are never touched, which is checked.

    Example: `nextbuy forget u000042`, then `nextbuy forget u000042 --yes`
    """
    quiet_libraries()
    from nextbuy.maintenance.erase import forget as run

    with console.status("forgetting" if yes else "searching"):
        report = run(
            Settings(),
            _unescaped(user) if escaped else user,
            remove=yes,
            keep_linked=keep_linked,
            also=also or (),
            unattributed=unattributed,
        )
    for line in str(report).splitlines():
        print_line(line)
    if report.left:
        raise NextbuyError(
            "The id is still there. Was something written meanwhile? Run the command again."
        )
    if yes:
        print_next_steps("nextbuy sessionize")
    elif report.holdings.rows:
        print_line("nothing was removed")
        flags = {"--keep-linked": keep_linked, "--unattributed": unattributed, "--escaped": escaped}
        options = [flag for flag, given in flags.items() if given]
        options += [f"--also={each}" for each in also or ()]
        end_of_options = ["--"] if user.startswith("-") else []
        print_next_steps(
            shlex.join(["nextbuy", "forget", "--yes", *options, *end_of_options, user])
        )


def _unescaped(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"'))
    except ValueError as error:
        raise NextbuyError(f"{text!r} is no text as JSON writes it: {error}.") from None
