"""Verbs that keep what cannot be made again: backup, restore."""

from pathlib import Path
from typing import Annotated

import typer

from nextbuy.cli.app import app, console, say, what_next
from nextbuy.settings import Settings


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write (.tar.gz).")],
) -> None:
    """Keep registry, MLflow, live events, prediction log and Redis in one archive.

    Tables are not in it: the verbs make them from your logs. Nothing has to be stopped.

    Example: `nextbuy backup /backups/nextbuy-monday.tar.gz`
    """
    from nextbuy.maintenance.backup import backup as run

    with console.status("backup") as status:
        kept = run(Settings(), file, lambda part: status.update(f"backup: {part}"))
    for line in kept:
        say(line)
    say(f"{file}: {file.stat().st_size:,} bytes")
    what_next(f"nextbuy restore {file}")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What `nextbuy backup` wrote.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace what the data folder holds already.")
    ] = False,
) -> None:
    """Bring a backup back, into the same data folder or another one. Stop the service first.

    Example: `NEXTBUY_DATA=/data nextbuy restore /backups/nextbuy-monday.tar.gz`
    """
    from nextbuy.maintenance.backup import restore as run

    with console.status("restore") as status:
        brought = run(
            Settings(), file, lambda part: status.update(f"restore: {part}"), replace=replace
        )
    for line in brought:
        say(line)
    what_next("nextbuy apply", "nextbuy materialize")
