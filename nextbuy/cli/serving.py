"""Verbs around the feature store and the service: apply, materialize, predict, serve."""

import json
from contextlib import chdir
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from rich.table import Table

from nextbuy.cli.app import app, console, print_line, print_next_steps, quiet_libraries
from nextbuy.settings import Settings

MATERIALIZED = "nextbuy:tables"
"""A hash in Redis: feature view -> the layout, the schema and the table's days that it holds, as
JSON."""


@app.command()
def apply() -> None:
    """Register entities, feature views and the feature service with Feast.

    The same as `feast -c feature_repo apply`. Example: `nextbuy apply`
    """
    quiet_libraries()
    from feast.cli.cli import cli as feast

    settings = Settings()
    settings.data.mkdir(parents=True, exist_ok=True)
    with chdir(settings.feature_repo):  # Feast changes into the repo and imports from there
        feast(["-c", str(settings.feature_repo), "apply"], standalone_mode=False)
    print_next_steps("nextbuy train")


@app.command()
def materialize() -> None:
    """Load the latest feature values into Redis, for each view from the first day that changed.

    The same as `feast -c feature_repo materialize START END` does. Example: `nextbuy materialize`
    """
    quiet_libraries()
    from feast import FeatureStore

    from nextbuy.live.write_history import recorded_materialization
    from nextbuy.stores.online.layout import PACKED_VERSION
    from nextbuy.stores.online.redis_server import connect, running_redis
    from nextbuy.versioned_table import require

    settings = Settings()
    sessions = require(settings.sessions, "nextbuy sessionize")
    store = FeatureStore(repo_path=str(settings.feature_repo))
    views = {view.name: view for view in store.list_feature_views() if view.online}
    newest = datetime.fromtimestamp(sessions.info["newest_us"] / 1e6, UTC) + timedelta(seconds=1)
    done = []
    with running_redis(settings):
        redis = connect(settings)
        for name, view in views.items():
            table = require(settings.features / name, "nextbuy features")
            schema = sorted(f"{field.name}: {field.dtype}" for field in view.schema)
            stored = [repr(store.config.online_store), f"ttl {view.ttl}"]
            layout = f"packed layout {PACKED_VERSION}"
            now = {"schema": [*schema, *stored, layout], "days": table.days}
            # Kept in Redis itself: a Redis that was emptied is filled again.
            found: Any = redis.hget(MATERIALIZED, name)
            before = json.loads(found or "{}")
            if now == before:
                continue
            with recorded_materialization(settings, name, sessions.info["newest_us"]):
                store.materialize(_changed_since(before, now), newest, feature_views=[name])
            redis.hset(MATERIALIZED, name, json.dumps(now))
            done.append(name)
    if done:
        print_line(f"in Redis, as of {newest:%Y-%m-%d %H:%M:%S} UTC: {', '.join(done)}")
    else:
        print_line("Redis is up to date")
    print_next_steps("nextbuy serve")


def _changed_since(before: dict[str, Any], now: dict[str, Any]) -> datetime:
    """The first day whose rows are not those of the last time; all days where values moved."""
    if before.get("schema") != now["schema"]:
        return datetime(1970, 1, 1, tzinfo=UTC)
    changed = set(before["days"].items()) ^ set(now["days"].items())
    return datetime.fromisoformat(min(day for day, _ in changed)).replace(tzinfo=UTC)


@app.command()
def predict(
    user: Annotated[str, typer.Argument(help="The shopper's id.")],
    item: Annotated[
        list[str] | None,
        typer.Option(help="An item to score; none: the items of the latest session."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="URL of a running service; none: start one for this request.")
    ] = None,
) -> None:
    """Ask the service for the probability of a purchase in the next session, item by item.

    Example: `nextbuy predict u000042 --item i00007`
    """
    quiet_libraries()
    from bento.client import predict as ask
    from bento.serve import running

    if url:
        show_prediction(ask(url, user, item))
    else:
        with running(Settings()) as started:
            show_prediction(ask(started, user, item))
    print_next_steps("nextbuy serve", "nextbuy dashboard")


def show_prediction(answer: dict[str, object], most: int = 10) -> None:
    """Print the service's answer as a ranked table."""
    items = answer["items"]
    assert isinstance(items, list)
    table = Table(title=f"shopper {answer['user_id']}, next session", title_justify="left")
    table.add_column("rank", justify="right")
    table.add_column("item")
    table.add_column("probability", justify="right")
    for row in items[:most]:
        table.add_row(str(row["rank"]), row["item_id"], f"{row['probability']:.2%}")
    console.print(table)
    if not items:
        print_line("No item is known of this shopper. Name items with --item.")
    elif len(items) > most:
        print_line(f"and {len(items) - most} more")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3000,
    workers: Annotated[int, typer.Option(help="Server processes.")] = 1,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Let the challenger score too; only logged.")
    ] = False,
) -> None:
    """Serve the champion over HTTP until Ctrl-C.

    The same as `bentoml serve bento.service:Nextbuy` after the champion was exported.
    Example: `nextbuy serve --port 3000`
    """
    quiet_libraries()
    from bento.serve import serve as run

    print_next_steps(
        f"""curl -s -X POST http://{host}:{port}/predict -H 'content-type: application/json' """
        """-d '{"user_id": "u000042"}'"""
    )
    run(Settings(), host, port, workers, shadow)


@app.command()
def reload(
    port: Annotated[int, typer.Option(help="Port of the running service.")] = 3000,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Let the challenger score too; only logged.")
    ] = False,
) -> None:
    """Make a running service load the current champion, without a failed request.

    For a service that `nextbuy serve` started here. Example: `nextbuy reload --port 3000`
    """
    quiet_libraries()
    from bento.reload import reload as run

    with console.status("new workers take over"):
        deployment = run(Settings(), port, shadow)
    beside = f", {deployment.shadow} in the shadow" if deployment.shadow else ""
    print_line(f"port {port} answers with {deployment.model}{beside}")
    print_next_steps("nextbuy predict USER --url http://127.0.0.1:" + str(port))


@app.command()
def score(
    part_rows: Annotated[
        int | None, typer.Option(help="Rows per file, about; none: half a million.")
    ] = None,
) -> None:
    """Score every shopper's items of the latest session, from the feature tables to Parquet.

    A stopped run resumes where it ended. Example: `nextbuy score`
    """
    quiet_libraries()
    from rich.progress import Progress

    from bento.bulk import PART_ROWS
    from bento.bulk import score as run

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("scoring", total=None)

        def show(done: int, parts: int) -> None:
            bar.update(task, completed=done, total=parts)

        scores = run(Settings(), show, part_rows or PART_ROWS)
    print_line(
        f"{scores.rows:,} rows in {scores.parts} files"
        + (f" ({scores.parts - scores.scored} were there already)" * (scores.scored < scores.parts))
        + f": {scores.folder}"
    )
    query = f"FROM '{scores.folder}/*.parquet' WHERE rank = 1 LIMIT 10"
    print_next_steps(f'python -c "import duckdb; duckdb.sql(\\"{query}\\").show()"')
