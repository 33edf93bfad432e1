"""The Typer application and how it talks: one console, one way to say what comes next."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

app = typer.Typer(
    help="Will this shopper buy this item in their next session? One verb a stage; "
    "`nextbuy demo` runs them all.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

console = Console(highlight=False)
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = 110  # a pipe or a file has no width to fit in: tables stay whole
_stages: list[str] = []
_errors = Console(stderr=True, highlight=False)


def fail(message: str) -> None:
    """Print what went wrong to the error stream."""
    _errors.print("[bold red]error:[/]", end=" ")
    _errors.print(message, markup=False, soft_wrap=True)


def say(message: str) -> None:
    """Print a line of a stage, as it is."""
    console.print(f"  {message}", markup=False, soft_wrap=True)


def what_next(*commands: str) -> None:
    """Print the commands that make sense now; not inside a stage of the demo, which goes on."""
    if _stages:
        return
    console.print(f"next: [bold]{'[/] or [bold]'.join(commands)}[/]", soft_wrap=True)


@contextmanager
def stage(title: str) -> Iterator[None]:
    """Name a stage while it runs, and say how long it took."""
    began = time.perf_counter()
    console.print(f"[bold cyan]{title}[/]")
    _stages.append(title)
    try:
        yield
    finally:
        _stages.pop()
    console.print(f"  [dim]{time.perf_counter() - began:.1f} s[/]")


def quiet_libraries() -> None:
    """Keep the libraries' own chatter off the screen; warnings about our code stay in the tests."""
    logging.captureWarnings(True)  # Feast puts filters of its own before any of ours
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
