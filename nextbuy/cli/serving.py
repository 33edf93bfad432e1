"""Verbs of the feature store and the service: apply, materialize, predict, serve, reload, score."""

import json
import sys
from collections import Counter
from contextlib import ExitStack, chdir, redirect_stderr, redirect_stdout
from datetime import datetime, timedelta
from io import StringIO
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from nextbuy.cli.app import app, console, one_writer, print_line, print_next_steps, quiet_libraries
from nextbuy.cli.monitoring import NEWEST, moment_of
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.times import EPOCH, to_datetime, to_us, utc

if TYPE_CHECKING:
    from nextbuy.stores.compute_engine import Load


@app.command()
@one_writer
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
@one_writer
def materialize(
    full: Annotated[
        bool,
        typer.Option(
            "--full",
            help="Load every row again, and search all of Redis for rows that no table has.",
        ),
    ] = False,
) -> None:
    """Load the latest feature values into Redis, for each view from the first day that changed.

    Rows that left a table since it was loaded leave Redis; what live events wrote stays. The same
    as `feast -c feature_repo materialize START END` does. Example: `nextbuy materialize`
    """
    quiet_libraries()
    from feast import FeatureStore

    from nextbuy.stores.online.layout import PACKED_VERSION, TABLES
    from nextbuy.stores.online.redis_server import connect, running_redis
    from nextbuy.versioned_table import require

    settings = Settings()
    sessions = require(settings.sessions, "nextbuy sessionize")
    store = FeatureStore(repo_path=str(settings.feature_repo))
    views = {view.name: view for view in store.list_feature_views() if view.online}
    newest = to_datetime(sessions.info["newest_us"]) + timedelta(seconds=1)
    written = False
    with running_redis(settings):
        redis = connect(settings)
        for name, view in views.items():
            table = require(settings.features / name, "nextbuy features")
            schema = sorted(f"{field.name}: {field.dtype}" for field in view.schema)
            config = [repr(store.config.online_store), f"ttl {view.ttl}"]
            layout = f"packed layout {PACKED_VERSION}"
            now = {"schema": [*schema, *config, layout], "days": table.days}
            # In Redis itself: a Redis that was emptied is filled again.
            state: Any = redis.hget(TABLES, name)
            before = {} if full else json.loads(state or "{}")
            if now == before:
                continue
            # When the newest days went away, the first that differs is later than all rows.
            start = min(_changed_since(before, now), newest)
            with Console(file=sys.stdout).status(f"loading {name} into Redis"):
                load = _load(store, name, start, newest, full)
            redis.hset(TABLES, name, json.dumps(now))
            loaded = f"{load.rows:>10,} rows loaded" if load else " loaded"
            left = (
                f", {load.removed:,} removed that left the table" if load and load.removed else ""
            )
            print_line(f"{name:<14}{loaded}{left}")
            written = True
    print_line(
        f"in Redis, as of {newest:%Y-%m-%d %H:%M:%S} UTC" if written else "Redis is up to date"
    )
    print_next_steps("nextbuy serve")


def _load(
    store: Any, view: str, start: datetime, end: datetime, search_redis: bool
) -> "Load | None":
    """Materialize a view, without Feast's messages; None if another engine than ours did it."""
    from nextbuy.live.engine import LiveEngine
    from nextbuy.live.write_history import recorded_materialization

    engine, unread = store.provider.batch_engine, StringIO()
    with ExitStack() as stack:
        if isinstance(engine, LiveEngine):
            engine.search_redis = search_redis
        elif search_redis:
            raise NextbuyError(
                f"--full needs the batch engine nextbuy.live.engine.LiveEngine in "
                f"feature_store.yaml, not {type(engine).__name__}."
            )
        else:
            stack.enter_context(recorded_materialization(Settings(), view, to_us(end)))
        stack.enter_context(redirect_stdout(unread))
        stack.enter_context(redirect_stderr(unread))
        store.materialize(start, end, feature_views=[view])
    return engine.loads[view] if isinstance(engine, LiveEngine) else None


def _changed_since(before: dict[str, Any], now: dict[str, Any]) -> datetime:
    """The first day whose rows differ from the last run's; 1970 if the schema differs."""
    if before.get("schema") != now["schema"]:
        return EPOCH
    changed = set(before["days"].items()) ^ set(now["days"].items())
    return utc(datetime.fromisoformat(min(day for day, _ in changed)))


@app.command()
def predict(
    user: Annotated[str, typer.Argument(help="The shopper's id.")],
    item: Annotated[
        list[str] | None,
        typer.Option(help="An item to score; none: those that the shopper touched lately."),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="URL of a running service; none: start one for this request.")
    ] = None,
    untouched: Annotated[
        bool, typer.Option("--untouched", help="Also score items that the shopper never touched.")
    ] = False,
    at: Annotated[
        str | None, typer.Option(help="Without --url: the present (ISO, UTC), or `newest` (event).")
    ] = None,
) -> None:
    """Ask the service for the probability of a purchase in the next session, item by item.

    An item has one from the session that touched it until the horizon is over. In a log of the
    past everything is over: look at it as of its end, with `--at newest`.

    Example: `nextbuy predict u000042 --at newest`
    """
    if url and at:
        raise NextbuyError(
            f"--at is for the service that this command starts. The one at {url} has the present "
            "that it was started with: nextbuy serve --at newest"
        )
    moment = moment_of(at)
    quiet_libraries()
    from bento.client import predict as request_prediction
    from bento.serve import running

    if url:
        show_prediction(request_prediction(url, user, item, untouched=untouched))
    else:
        with running(Settings(), at=moment or at) as started:
            show_prediction(request_prediction(started, user, item, untouched=untouched))
    print_next_steps("nextbuy serve", "nextbuy dashboard")


WITHOUT_ANSWER = {
    "expired": "the horizon is over; for a log of the past: --at newest",
    "untouched": "never touched by this shopper; for a guess: --untouched",
}


def show_prediction(prediction: dict[str, Any], limit: int = 10) -> None:
    """Print the service's answer as a ranked table."""
    items = prediction["items"]
    console.print(f"shopper {prediction['user_id']}, next session{_age(prediction)}", markup=False)
    table = Table()
    table.add_column("rank", justify="right")
    table.add_column("item")
    table.add_column("probability", justify="right")
    table.add_column("touched", justify="right")
    answered = [row for row in items if row["rank"] is not None]
    for row in answered[:limit]:
        touched = _minute(row["touched_at"]) or row["state"]
        table.add_row(str(row["rank"]), row["item_id"], f"{row['probability']:.2%}", touched)
    if answered:
        console.print(table)
    if not items:
        print_line("No item is known of this shopper. Name items with --item.")
    elif len(answered) > limit:
        print_line(f"and {len(answered) - limit} more")
    states = Counter(row["state"] for row in items if row["rank"] is None)
    for state, count in states.items():
        first = next(row["item_id"] for row in items if row["state"] == state)
        print_line(f"{count} without an answer ({first} …): {WITHOUT_ANSWER[state]}")


def _age(prediction: dict[str, Any]) -> str:
    """Until when the horizon of the shopper's last event runs."""
    if prediction["last_event_at"] is None:
        return ""
    as_of, last, ends = (
        _minute(prediction[name]) for name in ("as_of", "last_event_at", "horizon_ends")
    )
    return f", as of {as_of}; last event {last}, horizon until {ends} (UTC)"


def _minute(moment: str | None) -> str:
    return "" if moment is None else moment[:16].replace("T", " ")


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 3000,
    workers: Annotated[int, typer.Option(help="Server processes.")] = 1,
    shadow: Annotated[
        bool, typer.Option("--shadow", help="Let the challenger score too; only logged.")
    ] = False,
    at: Annotated[
        str | None,
        typer.Option(help="The present for a log of the past: a moment (ISO, UTC), or `newest`."),
    ] = None,
) -> None:
    """Serve the champion over HTTP until Ctrl-C.

    The same as `bentoml serve bento.service:Nextbuy` after the champion was exported. An item has
    an answer until its horizon is over, by the clock; `--at newest` looks from the end of the log.

    Example: `nextbuy serve --port 3000`
    """
    moment = moment_of(at)
    quiet_libraries()
    from bento.serve import limits
    from bento.serve import serve as run
    from bento.settings import ServiceSettings

    service = ServiceSettings()
    if limited := limits(service, host):
        print_line(limited)
    address = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    key = "-H 'x-api-key: KEY' " if service.keys else ""
    print_next_steps(
        f"""curl -s -X POST http://{address}:{port}/predict -H 'content-type: application/json' """
        f"""{key}-d '{{"user_id": "u000042"}}'"""
    )
    run(Settings(), host, port, workers, shadow, moment or at)


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

    with console.status("the workers load the models"):
        deployment = run(Settings(), port, shadow)
    beside = f", {deployment.shadow} in the shadow" if deployment.shadow else ""
    print_line(f"port {port} answers with {deployment.model}{beside}")
    print_next_steps("nextbuy predict USER --url http://127.0.0.1:" + str(port))


@app.command()
def score(
    part_rows: Annotated[
        int | None, typer.Option(help="Rows per file, about; none: two million.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(help="Score as of this moment (ISO, UTC), or `newest` (event); none: now."),
    ] = None,
) -> None:
    """Score who is likely to buy what: every shopper's items whose horizon runs, to Parquet.

    Expired items are counted and left out. From the feature tables, so events since the last
    `nextbuy features` are not known. A stopped run with --at resumes where it ended.

    Example: `nextbuy score --at newest`
    """
    moment = moment_of(at)
    quiet_libraries()
    from rich.progress import Progress

    from bento.bulk import PART_ROWS, as_of_newest
    from bento.bulk import score as run

    if at == NEWEST:
        moment = as_of_newest(Settings())

    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("scoring", total=None)

        def show(done: int, parts: int) -> None:
            bar.update(task, completed=done, total=parts)

        result = run(Settings(), show, part_rows or PART_ROWS, moment)
    existed = result.parts - result.scored
    print_line(
        f"{result.rows:,} rows in {result.parts} files"
        + (f" ({existed} existed already)" if existed else "")
        + f": {result.folder}"
    )
    print_line(f"as of {result.as_of:%Y-%m-%d %H:%M} UTC; {result.expired:,} expired, left out")
    if not result.rows and result.expired and at is None:
        print_next_steps("nextbuy score --at newest")
        return
    query = f"FROM '{result.folder}/*.parquet' ORDER BY probability DESC LIMIT 10"
    print_next_steps(f'python -c "import duckdb; duckdb.sql(\\"{query}\\").show()"')
