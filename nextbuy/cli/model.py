"""Verbs around the model: train, evaluate."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from nextbuy.cli.app import app, console, quiet_libraries, say, what_next
from nextbuy.cli.config import ConfigFile, read_config
from nextbuy.settings import Settings

SHOWN = {
    "pr_auc": "PR-AUC",
    "roc_auc": "ROC-AUC",
    "precision_at_5": "P at 5 %",
    "log_loss": "log-loss",
    "calibration_error": "calibr. error",
}


@app.command()
def train(config: ConfigFile = None) -> None:
    """Fit XGBoost and LightGBM, log both to MLflow, make the better one champion.

    Example: `nextbuy train --config configs/taobao.yaml`
    """
    quiet_libraries()
    from mlflow.utils.logging_utils import disable_logging

    from training.train import train as run

    disable_logging()  # type: ignore[no-untyped-call]  # it prints what it registers beside what we say
    with console.status("training"):
        result = run(Settings(), read_config(config).train_config(), say)
    say(
        f"{result.rows:,} rows, {result.positives:,} positive, {result.features} features; "
        f"champion: version {result.version} ({result.family})"
        + ("" if result.fitted else "   (up to date)")
    )
    what_next("nextbuy evaluate", "nextbuy materialize")


@app.command()
def evaluate(
    config: ConfigFile = None,
    json: Annotated[Path | None, typer.Option(help="Write the report to this file too.")] = None,
) -> None:
    """Measure the champion on the last, untouched period, beside baselines and the best possible.

    Example: `nextbuy evaluate --json metrics.json`
    """
    quiet_libraries()
    from training.evaluate import evaluate as run

    with console.status("evaluating"):
        report = run(Settings(), read_config(config).train_config())
    show_report(report)
    if json:
        from json import dumps

        json.write_text(dumps(report, indent=1))
    what_next("nextbuy materialize", mlflow_ui(Settings()))


def mlflow_ui(settings: Settings) -> str:
    """The command that opens MLflow on our runs, as short as the working directory allows."""
    uri = settings.tracking_uri
    return f"mlflow ui --backend-store-uri {uri.replace(f'sqlite:///{Path.cwd()}/', 'sqlite:///')}"


def show_report(report: dict[str, Any]) -> None:
    """Print the metrics table with its 95 % intervals."""
    test = report["test"]
    table = Table(
        title=f"test {test['from'][:10]} to {test['to'][:10]}: {test['rows']:,} rows, "
        f"{test['base_rate']:.2%} positive; 95 % intervals by shopper",
        title_justify="left",
    )
    table.add_column("")
    for title in SHOWN.values():
        table.add_column(title, justify="right", no_wrap=True)
    for name, metrics in report["models"].items():
        cells = [f"{metrics[m]['value']:.3f}" if m in metrics else "-" for m in SHOWN]
        cells[0] += f" ({metrics['pr_auc']['low']:.3f}–{metrics['pr_auc']['high']:.3f})"
        table.add_row(name, *cells, style="bold" if name == report["champion"] else None)
    console.print(table)
    if report["achievable"]:
        shares = ", ".join(f"{SHOWN[m]} {v:.0%}" for m, v in report["achievable"].items())
        say(f"share of the achievable, (model - base) / (oracle - base): {shares}")
