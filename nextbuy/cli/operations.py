"""Verbs of operation: backup, restore, forget."""

from pathlib import Path
from typing import Annotated

import typer

from nextbuy.cli.app import app, console, one_writer, print_line, print_next_steps
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write (.tar.gz).")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace the file if it exists already.")
    ] = False,
) -> None:
    """Save registry, MLflow, live events, prediction log and Redis in one archive.

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
@one_writer
def forget(user: Annotated[str, typer.Argument(help="The shopper's id.")]) -> None:
    """Remove a person from every table, log and store, and prove it by a search.

    Example: `nextbuy forget u000042`
    """
    from nextbuy.maintenance.erase import forget as run

    with console.status("forgetting"):
        report = run(Settings(), user)
    for line in str(report).splitlines():
        print_line(line)
    if report.left:
        raise NextbuyError("The id is still there; run the command again.")
    print_next_steps("nextbuy sessionize")
