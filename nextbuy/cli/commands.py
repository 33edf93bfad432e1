"""`nextbuy commands`: the help of every verb as one page, so that no page has to repeat it."""

import copy
from typing import Any

import typer
from typer.main import get_command

from nextbuy.cli import daily, data, demo, live, model, monitoring, operations, serving
from nextbuy.cli.app import app

FLOW = (demo, data, serving, model, live, monitoring, daily, operations)
"""The modules of the verbs, in the order in which a reader meets them."""
WIDTH = 100


@app.command()
def commands() -> None:
    """Print the help of every verb, as Markdown.

    Example: `nextbuy commands > docs/commands.md`
    """
    typer.echo(page(), nl=False)


def page() -> str:
    """The reference of all verbs: a table of them, then the help of each as `--help` says it."""
    group: Any = get_command(app)  # Typer carries a Click of its own, without types
    places = {module.__name__: place for place, module in enumerate(FLOW)}
    verbs = sorted(
        group.commands.items(),
        key=lambda named: places.get(named[1].callback.__module__, len(FLOW)),
    )
    lines = [
        "# Commands",
        "",
        "What `nextbuy VERB --help` says. Written by `nextbuy commands` (`make docs`).",
        "",
        "| verb | what it does |",
        "|---|---|",
        *(f"| [`{name}`](#nextbuy-{name}) | {_first(verb)} |" for name, verb in verbs),
    ]
    for name, verb in verbs:
        lines += ["", f"## nextbuy {name}", "", "```text", _help(name, verb), "```"]
    return "\n".join(lines) + "\n"


def _first(verb: Any) -> str:
    return str(verb.help).split("\n\n")[0].replace("\n", " ")


def _help(name: str, verb: Any) -> str:
    plain = copy.copy(verb)
    plain.rich_markup_mode = None  # without boxes and colours, whatever the terminal
    width = {"terminal_width": WIDTH, "max_content_width": WIDTH}
    settings = {**width, **(app.info.context_settings or {})}
    context = plain.context_class(plain, info_name=f"nextbuy {name}", **settings)
    return str(plain.get_help(context))
