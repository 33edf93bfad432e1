"""`nextbuy demo`: every stage in order, each doing only what changed."""

import os
from pathlib import Path
from typing import Annotated

import typer

from nextbuy.cli import data, model, monitoring, serving
from nextbuy.cli.app import app, console, quiet_libraries, stage
from nextbuy.cli.config import ConfigFile, Rebuild, check_config, has_settings
from nextbuy.errors import NextbuyError
from nextbuy.settings import DEFAULT_DATA, PROJECT, Settings


@app.command()
def demo(
    source: Annotated[
        str, typer.Option(help="Mapping of the log, by name or file.")
    ] = data.SIMULATED,
    log: Annotated[
        list[str] | None, typer.Option(help="Your event log; none: a simulated shop.")
    ] = None,
    shoppers: Annotated[int, typer.Option(help="Size of the simulated shop.")] = 2200,
    days: Annotated[int, typer.Option(help="Days of the simulated shop.")] = 180,
    config: ConfigFile = None,
    rebuild: Rebuild = False,
) -> None:
    """Run every stage once: from a log to a served prediction.

    Your own log gets its own data folder, `data/NAME` for --source NAME, unless NEXTBUY_DATA is
    set, and at first the settings of `configs/NAME.yaml` if it exists, unless --config names a
    file. They are recorded there, so that later verbs need no --config.

    Example: `nextbuy demo --source taobao --log 'UserBehavior.csv.gz'`
    """
    quiet_libraries()
    name = Path(source).stem
    if log is None and name != data.SIMULATED:
        raise NextbuyError(f"--source {source} needs --log FILE: only the simulated shop has none.")
    if log and "NEXTBUY_DATA" not in os.environ:
        os.environ["NEXTBUY_DATA"] = str(PROJECT / "data" / name)
    settings = Settings()
    own = PROJECT / "configs" / f"{name}.yaml"
    if config is None and own.exists() and not has_settings(settings):
        config = own
    check_config(config, rebuild=rebuild)
    if log:
        data.check_log(log, source)

    if log is None:
        with stage("simulate a shop"):
            data.simulate(shoppers=shoppers, days=days)
    with stage("ingest: map, check, quarantine, publish"):
        logs = log or [f"{settings.raw / data.SIMULATED}/*.parquet"]
        data.ingest(logs, source, replace=log is None)
    with stage("sessions and labels"):
        data.sessionize(config, rebuild)
    with stage("feature tables"):
        data.features()
    with stage("feast apply"):
        serving.apply()
    with stage("train XGBoost and LightGBM"):
        model.train(config)
    with stage("feast materialize to Redis"):
        serving.materialize()
    with stage("serve, and ask over HTTP"):
        serving.predict(_recent_shopper(settings), at=monitoring.NEWEST)
    with stage("evaluate"):
        model.evaluate(config)
    with stage("monitor: checks, drift, performance, alerts"):
        # `nextbuy monitor` writes the full report
        monitoring.run_monitor(monitoring.NEWEST, pages=False)
    _farewell(settings)


def _recent_shopper(settings: Settings) -> str:
    """A shopper of the log's end who touched several items lately: something to rank."""
    from nextbuy.connection import duckdb_connection
    from nextbuy.versioned_table import files

    with duckdb_connection(settings) as connection:
        rows = connection.execute(
            "SELECT user_id FROM read_parquet(?) WHERE len(item_ids) >= 3 "
            "ORDER BY event_timestamp DESC, user_id LIMIT 1",
            [files(settings.features / "recent_items")],
        ).fetchall()
    if not rows:
        raise NextbuyError("No shopper has touched several items.")
    return str(rows[0][0])


def _farewell(settings: Settings) -> None:
    prefix = ""
    if settings.data != DEFAULT_DATA:
        prefix = f"NEXTBUY_DATA={_short(settings.data)} "
    console.print(
        "\n[bold]Done.[/] Now try:\n"
        f"  {prefix}nextbuy serve --at newest    # the HTTP service, as of the log's end\n"
        f"  {prefix}nextbuy dashboard            # quality, drift, model, features\n"
        f"  {model.mlflow_ui(settings)}\n"
        "  nextbuy demo --source rees46 --log 'YOUR_LOG.csv'   # your own data\n",
        soft_wrap=True,
    )


def _short(path: Path) -> Path:
    return path.relative_to(PROJECT) if path.is_relative_to(PROJECT) else path
