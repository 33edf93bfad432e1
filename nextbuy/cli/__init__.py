"""The front door: `nextbuy VERB`, one verb a stage. The only place that knows all stages."""

import sys

import nextbuy.telemetry  # noqa: F401  (first: switches off what the stages' libraries would send)
from nextbuy.cli.app import app, fail
from nextbuy.errors import NextbuyError

__all__ = ["app", "main"]


def main() -> None:
    """Run one command; an error that the user can mend is a message and exit code 1."""
    from nextbuy.cli import commands  # noqa: F401  (it imports the others; they add the verbs)

    try:
        app()
    except NextbuyError as error:
        fail(str(error))
        sys.exit(1)
