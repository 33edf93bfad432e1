"""Verbs around the model: train, evaluate, backtest, uplift, tune, promote, rollback."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from nextbuy.cli.app import app, console, one_writer, print_line, print_next_steps, quiet_libraries
from nextbuy.cli.config import ConfigFile, keep_config, run_config
from nextbuy.errors import NextbuyError
from nextbuy.models.families import family_of
from nextbuy.settings import Settings

SHOWN = {
    "pr_auc": "PR-AUC",
    "roc_auc": "ROC-AUC",
    "precision_at_5": "P at 5 %",
    "ndcg_10": "NDCG@10",
    "log_loss": "log-loss",
    "calibration_error": "calibr. error",
}


def _registered(family: str) -> str:

    family_of(family)
    return family


ModelFamily = Annotated[
    str,
    typer.Option(
        "--family", callback=_registered, help="Model family, such as lightgbm or xgboost."
    ),
]


@app.command()
@one_writer
def train(config: ConfigFile = None) -> None:
    """Fit every model family, log each to MLflow, make the best one challenger.

    The first model of a registry becomes champion at once.

    Example: `nextbuy train --config configs/taobao.yaml`
    """
    quiet_libraries()
    from training.dataset import build_dataset
    from training.train import train as run

    settings, chosen = Settings(), run_config(config)
    what = chosen.train_config()
    with console.status("training"):
        result = run(settings, build_dataset(settings, what.split), what, print_line)
    keep_config(chosen)  # what this model was trained with is what it is evaluated and judged with
    print_line(
        f"{result.rows:,} rows, {result.positives:,} positive, {result.features} features; "
        f"{'champion' if result.is_champion else 'challenger'}: "
        f"version {result.version} ({result.family})" + ("" if result.fitted else "   (up to date)")
    )
    if result.is_champion:
        print_next_steps("nextbuy evaluate", "nextbuy materialize")
    else:
        print_next_steps("nextbuy evaluate --challenger", "nextbuy promote")


@app.command()
def evaluate(
    config: ConfigFile = None,
    json: Annotated[Path | None, typer.Option(help="Also write the report to this file.")] = None,
    challenger: Annotated[bool, typer.Option(help="Evaluate the challenger instead.")] = False,
) -> None:
    """Measure the champion on the untouched test period, beside baselines and the best possible.

    With --challenger, the model that waits for `nextbuy promote`; where none waits, that is said.

    Example: `nextbuy evaluate --json metrics.json`
    """
    quiet_libraries()
    from nextbuy.contract import CHALLENGER, CHAMPION
    from training.dataset import build_dataset
    from training.evaluate import evaluate as run

    settings, what = Settings(), run_config(config).train_config()
    if challenger and json is None and _only_champion(settings):
        return
    with console.status("evaluating"):
        dataset = build_dataset(settings, what.split)
        report = run(settings, dataset, what, CHALLENGER if challenger else CHAMPION)
    show_report(report)
    card = f"model_card{'-challenger' if challenger else ''}/model_card.html"
    print_line(f"model card: {settings.reports / card}")
    if json:
        from json import dumps

        json.write_text(dumps(report, indent=1))
    print_next_steps(
        "nextbuy promote" if challenger else "nextbuy materialize", mlflow_ui(settings)
    )


@app.command()
def backtest(
    config: ConfigFile = None,
    origins: Annotated[int, typer.Option(min=2, help="How many ends of the log to try.")] = 3,
    step_days: Annotated[float, typer.Option(min=0.1, help="Days between two ends.")] = 15,
    family: ModelFamily = "lightgbm",
) -> None:
    """Train and test as if the log had ended earlier, several times: is the score a fluke?

    Example: `nextbuy backtest --origins 3 --step-days 15`
    """
    quiet_libraries()
    from training.backtest import backtest as run

    with console.status("backtesting"):
        tests = run(
            Settings(),
            run_config(config).train_config(),
            family,
            origins,
            step_days,
            print_line,
        )
    table = Table(
        "test", "rows", "positive", *(SHOWN[m] for m in tests[0]["metrics"] if m in SHOWN)
    )
    for origin in tests:
        measured = origin["metrics"]
        cells = [f"{v['value']:.3f}" for m, v in measured.items() if m in SHOWN]
        cells[0] += f" ({measured['pr_auc']['low']:.3f}–{measured['pr_auc']['high']:.3f})"
        when = f"{origin['from'][:10]} to {origin['to'][5:10]}"
        table.add_row(when, f"{origin['rows']:,}", f"{origin['positives']:,}", *cells)
    console.print(table)
    print_next_steps("nextbuy evaluate")


@app.command()
def uplift(
    config: ConfigFile = None,
    family: ModelFamily = "lightgbm",
) -> None:
    """Rank shoppers by what an offer would add; needs a log with randomized offers.

    Example: `nextbuy simulate --offer-share 0.5`, up to the features, then `nextbuy uplift`
    """
    quiet_libraries()
    from training.dataset import build_dataset
    from training.uplift import uplift as run

    settings, what = Settings(), run_config(config).train_config()
    with console.status("fitting a model for each arm"):
        report = run(settings, build_dataset(settings, what.split), what, family)
    print_line(
        f"{report['rows']:,} test rows, {report['offered']:,} with an offer: "
        f"{report['effect']:+.2%} purchases a row"
    )
    for name, area in report["qini"].items():
        print_line(f"Qini {name:<13} {area['value']:.5f} ({area['low']:.5f} to {area['high']:.5f})")
    print_next_steps("nextbuy evaluate")


@app.command()
def tune(
    config: ConfigFile = None,
    trials: Annotated[int, typer.Option(min=1, help="Total trials of the study.")] = 30,
    family: ModelFamily = "lightgbm",
) -> None:
    """Search for better parameters; a stopped search resumes where it ended.

    Writes `tuned.yaml` in the data folder: the config file with the best parameters.

    Example: `nextbuy tune --trials 30`
    """
    quiet_libraries()
    import yaml

    from training.dataset import build_dataset
    from training.tune import tune as run

    settings, chosen = Settings(), run_config(config)
    what = chosen.train_config()
    with console.status("tuning"):
        dataset = build_dataset(settings, what.split)
        tuned = run(settings, dataset, what.model, family, trials, print_line)
    file = settings.data / "tuned.yaml"
    best = what.model_copy(update={"model": tuned.config}).model_dump(exclude_defaults=True)
    merged = chosen.model_copy(update={"train": best}).model_dump(exclude_defaults=True)
    file.write_text(yaml.safe_dump(merged, sort_keys=False))
    print_line(
        f"{tuned.trials} trials, {tuned.pruned} pruned: validation log-loss {tuned.log_loss:.5f}, "
        f"as configured {tuned.default_log_loss:.5f}"
    )
    print_next_steps(f"nextbuy train --config {file}")


@app.command()
@one_writer
def promote(
    config: ConfigFile = None,
    other_settings: Annotated[
        bool,
        typer.Option(
            "--other-settings",
            help="Allow another horizon, session gap or time zone than the champion's.",
        ),
    ] = False,
) -> bool:
    """Make the challenger champion if it passes every gate; print each verdict.

    A challenger that answers another question than the champion (another horizon, session gap or
    time zone) is refused; with --other-settings it has to beat the best rule instead.

    Example: `nextbuy promote`
    """
    quiet_libraries()
    from training.dataset import build_dataset
    from training.promote import promote as run

    settings, what = Settings(), run_config(config).train_config()
    if _only_champion(settings):
        return False
    with console.status("judging the challenger"):
        dataset = build_dataset(settings, what.split)
        result = run(settings, dataset, what, other_settings=other_settings)
    for gate in result.gates:
        print_line(f"{gate.verdict:<12}  {gate.name}: {gate.why}")
    if not result.promoted:
        failed = ", ".join(gate.name for gate in result.gates if gate.passed is False)
        raise NextbuyError(
            f"Version {result.version} is not promoted ({failed}); the champion stays. "
            "Look at it with: nextbuy evaluate --challenger"
        )
    print_line(f"version {result.version} is champion; it replaces {result.replaces or 'none'}")
    print_next_steps("nextbuy serve", "nextbuy rollback")
    return True


@app.command()
@one_writer
def rollback() -> None:
    """Make the version that the champion replaced champion again.

    Example: `nextbuy rollback`
    """
    quiet_libraries()
    from training.promote import rollback as run

    replaced, champion = run(Settings())
    print_line(f"version {champion} is champion again, in the place of {replaced}")
    print_next_steps("nextbuy serve", "nextbuy evaluate")


def _only_champion(settings: Settings) -> bool:
    """Whether a champion serves and no other model waits; says so."""
    from nextbuy.contract import CHAMPION
    from nextbuy.models import registry

    client = registry.client(settings)
    with registry.reachable(settings):
        champion = registry.version_of(client, CHAMPION)
        if champion is None or registry.waiting(client) is not None:
            return False
    print_line(f"version {champion.version} is champion, and nothing waits for promotion")
    print_line(registry.NO_CHALLENGER)
    print_next_steps("nextbuy evaluate")
    return True


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
    print_line(report["settings"]["question"])
    if differing := report["settings"]["differing"]:
        print_line(
            f"NOT COMPARABLE: the model was trained with {differing} as in these tables, so its "
            "probabilities answer another question than the labels that it is measured on"
        )
    over = report["over_best_baseline"]
    low, high = over["difference"]["low"], over["difference"]["high"]
    print_line(
        f"PR-AUC {over['ratio']:.2f} x the best baseline ({over['baseline']}); "
        f"difference {over['difference']['value']:+.4f} ({low:+.4f} to {high:+.4f})"
    )
    if report["achievable"]:
        shares = ", ".join(f"{SHOWN[m]} {v:.0%}" for m, v in report["achievable"].items())
        print_line(f"share of the achievable, (model - base) / (oracle - base): {shares}")
