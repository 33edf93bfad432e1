"""The command line: `nextbuy VERB`, one verb per stage. The only place that knows all stages."""

import sys

import nextbuy.telemetry  # noqa: F401  (first: turns off the telemetry of the stages' libraries)
from nextbuy.cli import daily, data, demo, live, model, monitoring, operations, serving
from nextbuy.cli.app import app, fail, in_flow
from nextbuy.errors import NextbuyError, explain_refusal

__all__ = [
    "app", "daily", "data", "demo", "live", "main", "model", "monitoring", "operations", "serving",
]  # fmt: skip

in_flow(
    {
        "Start": ["demo"],
        "Data": ["simulate", "map", "ingest", "check", "sessionize"],
        "Features": ["features", "apply", "materialize"],
        "Model": ["train", "evaluate", "backtest", "tune", "uplift", "promote", "rollback"],
        "Serve": ["serve", "predict", "reload", "score", "replay"],
        "Operate": [
            "daily", "monitor", "dashboard", "live", "parity", "merge-live", "backup", "restore",
            "forget",
        ],
    }
)  # fmt: skip


def main() -> None:
    """Run one command; an error that the user can fix is a message and exit code 1."""
    try:
        app()
    except NextbuyError as error:
        fail(str(error))
        sys.exit(1)
    except Exception as error:
        refusal = explain_refusal(error)
        if refusal is None:
            raise
        fail(refusal)
        sys.exit(1)
