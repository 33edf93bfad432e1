"""Rolling-origin backtest: what the same training would have been worth on earlier days."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import mlflow

from nextbuy import atomic
from nextbuy.models import registry
from nextbuy.settings import Settings
from training.config import TrainConfig
from training.dataset import build_dataset, sample_of
from training.metrics import PROBABILITY, RANKING, with_intervals
from training.train import fit_calibrated


def backtest(
    settings: Settings,
    config: TrainConfig,
    family: str,
    origins: int,
    step_days: float,
    say: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Train and test as if the log had ended 0, 1, 2, … steps earlier; the earliest end first.

    Each origin splits the log as it was then, gaps included (Tashman, 2000). The models
    are measured and not kept. Writes `reports/backtest.json` and one nested MLflow run an origin.

    Returns:
        per origin `{"from", "to", "rows", "positives", "metrics": {metric: {"value", "low",
        "high"}}}` of its test period.

    Raises:
        NextbuyError: an earlier log is too short for the splits; say fewer origins or a shorter
            step.
    """
    registry.client(settings)
    results: list[dict[str, Any]] = []
    with registry.reachable(settings), mlflow.start_run(run_name=f"backtest {family}"):
        for back in reversed(range(origins)):
            dataset = build_dataset(settings, config.split, back * timedelta(days=step_days))
            booster = fit_calibrated(dataset, family, config.model)
            test = dataset.part("test")
            sample = sample_of(test)
            metrics = with_intervals(
                sample.labels,
                booster.score(test),
                sample.users,
                {**RANKING, **PROBABILITY},
            )
            start, end = dataset.splits.test
            origin = {
                "from": start.isoformat(),
                "to": end.isoformat(),
                "rows": test.num_rows,
                "positives": int(sample.labels.sum()),
                "metrics": metrics,
            }
            with mlflow.start_run(run_name=f"until {end:%Y-%m-%d}", nested=True):
                mlflow.set_tag("dataset", dataset.digest)
                mlflow.log_metrics({f"test_{k}": v["value"] for k, v in metrics.items()})
            results.append(origin)
            say(f"{start:%Y-%m-%d} to {end:%Y-%m-%d}: PR-AUC {metrics['pr_auc']['value']:.4f}")
        mlflow.log_dict({"origins": results}, "backtest.json")
    atomic.write_text(settings.reports / "backtest.json", json.dumps(results, indent=1))
    return results
