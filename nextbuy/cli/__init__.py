"""The front door: `nextbuy VERB`, one verb a stage. The only place that knows all stages."""

import sys

import nextbuy.telemetry  # noqa: F401  (first: switches off what the stages' libraries would send)
from nextbuy.cli.app import app, fail
from nextbuy.errors import NextbuyError, explain_refusal

__all__ = ["app", "main"]


def main() -> None:
    """Run one command; what the user can mend is a message and exit code 1, not a traceback."""
    from nextbuy.cli import commands  # noqa: F401  (it imports the others; they add the verbs)

    try:
        app()
    except NextbuyError as error:
        fail(str(error))
        sys.exit(1)
    except Exception as error:
        told = explain_refusal(error)
        if told is None:
            raise
        fail(told)
        sys.exit(1)
