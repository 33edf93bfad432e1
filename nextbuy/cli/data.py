"""Verbs from the log to the feature tables: simulate, ingest, sessionize, features."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nextbuy.cli.app import app, console, one_writer, print_line, print_next_steps, quiet_libraries
from nextbuy.cli.config import ConfigFile, Rebuild, build_config
from nextbuy.errors import NextbuyError
from nextbuy.settings import PROJECT, Settings
from nextbuy.shop import mark_shop

if TYPE_CHECKING:
    from nextbuy.tables.spark import Compute
    from nextbuy.tables.writer import PublishedTable, StagedTable

SIMULATED = "simulated"
SOURCES = PROJECT / "configs" / "sources"


def print_table(table: "PublishedTable") -> None:
    """Print what became of one table."""
    print_line(
        f"{table.name:<14} {table.rows:>11,} rows" + ("" if table.is_new else "   (up to date)")
    )


@app.command()
@one_writer
def simulate(
    shoppers: Annotated[int, typer.Option(help="How many shoppers.")] = 2200,
    items: Annotated[int, typer.Option(help="How many items.")] = 1200,
    days: Annotated[int, typer.Option(help="How many days.")] = 180,
    seed: Annotated[int, typer.Option(help="Same seed, same log.")] = 7,
    offer_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of sessions that end with a random offer.")
    ] = 0.0,
) -> None:
    """Simulate a shop: a log of events, and the true probability behind every label.

    Example: `nextbuy simulate --shoppers 500 --days 120`
    """
    from generators.shop import ShopConfig, inputs
    from generators.shop import simulate as run
    from nextbuy.versioned_table import manifest

    settings = Settings()
    mark_shop(settings)
    config = ShopConfig(
        shoppers=shoppers, items=items, days=days, seed=seed, offer_share=offer_share
    )
    log = settings.raw / SIMULATED
    known = manifest(settings.truth)
    if known and known.inputs == inputs(config) and log.is_dir():
        print_line(f"{log} is up to date")
    else:
        with console.status("simulating") as status:
            summary = run(
                config,
                log,
                settings.truth,
                lambda day, n_days: status.update(f"simulating day {day} of {n_days}"),
            )
        print_line(
            f"{summary.events:,} events of {summary.shoppers:,} shoppers in {days} days; "
            f"{summary.base_rate:.1%} of the matured rows positive, "
            f"best possible PR-AUC {summary.oracle_pr_auc:.3f}"
        )
    print_next_steps(f"nextbuy ingest '{log}/*.parquet' --source simulated --replace")


@app.command("map")
def draft_mapping(
    logs: Annotated[list[str], typer.Argument(help="Files of one layout.")],
    name: Annotated[str, typer.Option(help="What to call the source.")] = "shop",
) -> None:
    """Draft a mapping from the look of a log, with the evidence for each line.

    Looks at the first rows of the first file. What rests on little has a question mark: look at it
    before you ingest.

    Example: `nextbuy map log.csv.gz > shop.yaml`
    """
    quiet_libraries()
    from nextbuy.ingest.draft import draft
    from nextbuy.ingest.draft_text import draft_text
    from nextbuy.ingest.sample import take_sample

    for log in logs:
        if not Path(log).is_file():
            raise NextbuyError(f"There is no file {log}. Check the path; quote no glob.")
    guessed = draft(take_sample(Path(logs[0])))
    typer.echo(draft_text(guessed, logs, name, sorted(SOURCES.glob("*.yaml"))), nl=False)


@app.command()
@one_writer
def ingest(
    logs: Annotated[list[str], typer.Argument(help="Files or globs (quote a glob).")],
    source: Annotated[
        str, typer.Option(help="Mapping: a YAML file, or the name of one in configs/sources.")
    ],
    items: Annotated[
        Path | None, typer.Option(help="Table of item attributes, if the mapping needs one.")
    ] = None,
    replace: Annotated[
        bool, typer.Option(help="Replace the published events instead of adding to them.")
    ] = False,
) -> None:
    """Turn an event log into canonical events; refused rows go to quarantine with the reason.

    Example: `nextbuy ingest log.csv.gz --source configs/sources/rees46.yaml`
    """
    quiet_libraries()
    from nextbuy.ingest.ingest import is_up_to_date, publish, stage_events
    from nextbuy.ingest.source import load_sources

    settings, mapping = Settings(), load_sources(source_file(source))
    if is_up_to_date(logs, mapping, settings, items=items, replace=replace):
        print_line("events of these logs are published   (up to date)")
        print_next_steps("nextbuy sessionize")
        return
    from monitoring.checks import check_events, raise_if_blocked

    with (
        console.status("ingesting") as status,
        stage_events(
            logs, mapping, settings, items=items, replace=replace, progress=status.update
        ) as staged,
    ):
        if staged.file:
            status.update("checking the new events")
            raise_if_blocked(check_events(staged.file, settings))
        report = publish(staged, status.update)
    for line in str(report).splitlines():
        print_line(line)
    print_next_steps("nextbuy sessionize")


def check_table(staged: "StagedTable", settings: Settings) -> None:
    """Refuse a table that breaks a blocking rule; loads the rules only where there is new data."""
    if staged.new_files:
        from monitoring.table_checks import check_staged

        check_staged(staged, settings)


def check_log(logs: list[str], source: str) -> None:
    """Refuse a log that is not there, or a mapping that cannot be read, before any work."""
    from nextbuy.ingest.log_files import find_files
    from nextbuy.ingest.source import files_by_source, load_sources

    files_by_source(find_files(logs), load_sources(source_file(source)))


def source_file(source: str) -> Path:
    """The mapping's file, given by path or by name."""
    named = SOURCES / f"{source}.yaml"
    if named.exists():
        return named
    if Path(source).exists():
        return Path(source)
    shipped = ", ".join(sorted(file.stem for file in SOURCES.glob("*.yaml")))
    raise NextbuyError(f"No source mapping {source}. Give a YAML file, or one of: {shipped}.")


class Engine(StrEnum):
    """What runs the definitions."""

    DUCKDB = "duckdb"
    SPARK = "spark"


EngineOption = Annotated[Engine, typer.Option(help="What computes the tables; they are the same.")]


@contextmanager
def computed_by(engine: Engine, settings: Settings) -> "Iterator[Compute | None]":
    """What computes each table whole; None for DuckDB, which can also go on from the last one."""
    if engine is Engine.DUCKDB:
        yield None
        return
    from nextbuy.tables.spark import spark_engine

    with spark_engine(settings) as compute:
        yield compute


@app.command()
@one_writer
def sessionize(
    config: ConfigFile = None,
    rebuild: Rebuild = False,
    engine: EngineOption = Engine.DUCKDB,
) -> None:
    """Cut the events into sessions and label the items touched in them.

    The settings are recorded in the data folder (`shop.json`): this verb and those after it use
    them without --config from then on. A file with another horizon, session gap or time zone is
    refused, unless --rebuild changes them on purpose.

    A table that fails a blocking check is not published: the last good one stays.

    Example: `nextbuy sessionize`, or `nextbuy sessionize --engine spark`
    """
    from nextbuy.tables.build import stage_labels, stage_sessions
    from nextbuy.versioned_table import require

    quiet_libraries()
    settings = Settings()
    require(settings.events, "nextbuy ingest LOG --source configs/sources/NAME.yaml")
    run = build_config(config, rebuild=rebuild)
    with console.status("sessions and labels"), computed_by(engine, settings) as compute:
        with stage_sessions(settings, run.sessions, compute) as staged:
            check_table(staged, settings)
            print_table(staged.publish())
        with stage_labels(settings, run.labels, compute) as staged:
            check_table(staged, settings)
            print_table(staged.publish())
    print_next_steps("nextbuy features")


@app.command()
@one_writer
def features(
    only: Annotated[list[str] | None, typer.Option(help="Build only this table.")] = None,
    engine: EngineOption = Engine.DUCKDB,
) -> None:
    """Build the feature tables that Feast serves.

    A table that fails a blocking check is not published: the last good one stays.

    Example: `nextbuy features --only item`, or `nextbuy features --engine spark`
    """
    from nextbuy.features import TABLES
    from nextbuy.tables.build import stage_features

    quiet_libraries()
    known = [table.name for table in TABLES]
    if unknown := set(only or ()) - set(known):
        raise NextbuyError(f"No feature table {', '.join(unknown)}. There are: {', '.join(known)}.")
    settings = Settings()
    with (
        console.status("feature tables"),
        computed_by(engine, settings) as compute,
        stage_features(settings, only or (), compute) as tables,
    ):
        for staged in tables:
            check_table(staged, settings)
            print_table(staged.publish())
    print_next_steps("nextbuy apply")
