"""Verbs that watch: monitor, dashboard."""

import subprocess
import sys
from typing import Annotated

import typer

from nextbuy.cli.app import app, console, quiet_libraries, say, what_next
from nextbuy.settings import PROJECT, Settings


@app.command()
def monitor() -> None:
    """Check the published tables, drift and predictions; exit 1 where something is wrong.

    Example: `nextbuy monitor`
    """
    quiet_libraries()
    from monitoring.run import monitor as run

    with console.status("monitoring"):
        report = run(Settings())
    for line in str(report).splitlines():
        say(line)
    what_next("nextbuy dashboard")
    raise typer.Exit(report.exit_code)


@app.command()
def dashboard(
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8501,
) -> None:
    """Open the dashboard until Ctrl-C.

    The same as `streamlit run monitoring/dashboard/app.py`. Example: `nextbuy dashboard`
    """
    app_file = PROJECT / "monitoring" / "dashboard" / "app.py"
    command = [sys.executable, "-m", "streamlit", "run", str(app_file), f"--server.port={port}"]
    # From the root: that is where Streamlit finds .streamlit/config.toml.
    raise typer.Exit(subprocess.run(command, cwd=PROJECT, check=False).returncode)
