"""The Typer application, its console, and the order of its verbs."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

import typer
from rich.console import Console
from typer.models import CommandInfo

from nextbuy.settings import Settings
from nextbuy.writer_lock import sole_writer

P = ParamSpec("P")
T = TypeVar("T")

app = typer.Typer(
    help="Will this shopper buy this item in their next session? One verb per stage; "
    "`nextbuy demo` runs them all.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

console = Console(highlight=False)
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = 110  # a pipe or a file has no width: do not wrap tables
_stages: list[str] = []
_errors = Console(stderr=True, highlight=False)


def in_flow(panels: Mapping[str, Sequence[str]]) -> None:
    """Put the verbs into the panels of the help, in this order; hidden verbs come last.

    Raises:
        KeyError: a visible verb is in no panel.
    """
    panel_of = {name: panel for panel, names in panels.items() for name in names}
    for verb in app.registered_commands:
        verb.short_help = str(verb.callback.__doc__).partition("\n")[0]  # whole, in commands.md
        if not verb.hidden:
            verb.rich_help_panel = panel_of[verb_name(verb)]
    order = [*panel_of]
    app.registered_commands.sort(
        key=lambda verb: len(order) if verb.hidden else order.index(verb_name(verb))
    )


def one_writer(verb: Callable[P, T]) -> Callable[P, T]:
    """Let a verb hold the data folder's writer lock while it runs; below `@app.command()`."""

    @wraps(verb)
    def alone(*args: P.args, **kwargs: P.kwargs) -> T:
        with sole_writer(Settings(), f"nextbuy {verb.__name__.replace('_', '-')}"):
            return verb(*args, **kwargs)

    return alone


def verb_name(verb: CommandInfo) -> str:
    """What is typed after `nextbuy`: the name given, or that of the function."""
    return verb.name or str(verb.callback.__name__).replace("_", "-")  # type: ignore[union-attr]


def fail(message: str) -> None:
    """Print what went wrong to the error stream."""
    _errors.print("[bold red]error:[/]", end=" ")
    _errors.print(message, markup=False, soft_wrap=True)


def print_line(message: str) -> None:
    """Print one line of a stage's output, without markup."""
    console.print(f"  {message}", markup=False, soft_wrap=True)


def print_next_steps(*commands: str) -> None:
    """Print the commands to run next; nothing inside a stage of `demo` or `daily`."""
    if _stages:
        return
    console.print(f"next: [bold]{'[/] or [bold]'.join(commands)}[/]", soft_wrap=True)


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Print a stage's title, and how long it took when it ends."""
    began = time.perf_counter()
    console.print(f"[bold cyan]{title}[/]")
    _stages.append(title)
    try:
        yield
    finally:
        _stages.pop()
    console.print(f"  [dim]{time.perf_counter() - began:.1f} s[/]")


def quiet_libraries() -> None:
    """Keep the libraries' log messages and warnings off the screen."""
    logging.captureWarnings(True)  # Feast's own warning filters take precedence over ours
    os.environ.setdefault("PYTHONWARNINGS", "ignore")  # for the processes that a command starts
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    chatty = (
        "py.warnings",
        "mlflow",
        "alembic",
        "feast",
        "bentoml",
        "great_expectations",
        "evidently",
        "httpx",
    )
    for name in chatty:
        logging.getLogger(name).setLevel(logging.ERROR)
