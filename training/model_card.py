"""The model card: one HTML file that needs no other, and its pictures."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jinja2 import Environment, FileSystemLoader

from nextbuy import atomic
from nextbuy.models.booster import Booster
from training.metrics import Labels, Vector
from training.plots import plots

SHAP_ROWS = 1_000
STRONGEST = 15
"""Features that the card lists."""
METRICS = (
    "pr_auc", "roc_auc", "precision_at_5", "recall_at_5", "lift_at_5", "ndcg_10", "hit_rate_1",
    "log_loss", "brier", "calibration_error",
)  # fmt: skip
TEMPLATE = Path(__file__).with_suffix(".html.j2")


def write_card(
    folder: Path,
    report: Mapping[str, Any],
    labels: Labels,
    scores: Mapping[str, Vector],
    booster: Booster,
    test: pa.Table,
) -> Path:
    """Draw the pictures and write `model_card.html` into `folder`, which is made and returned.

    Args:
        folder: for the card.
        report: of `training.evaluate`.
        labels: of the test rows.
        scores: name -> probabilities of the test rows.
        booster: of the model.
        test: the test rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    contract = booster.contract
    rows = np.sort(np.random.default_rng(7).permutation(test.num_rows)[:SHAP_ROWS])
    matrix = contract.matrix(test.take(pa.array(rows)))
    effects = booster.contributions(matrix)
    pictures = plots(
        folder,
        labels,
        scores,
        report["champion"],
        report["decisions"]["curve"],
        (contract.features, effects, matrix),
    )
    mean = np.abs(effects).mean(axis=0)
    strongest = np.argsort(-mean, kind="stable")[:STRONGEST]
    environment = Environment(loader=FileSystemLoader(TEMPLATE.parent), autoescape=True)
    page = environment.get_template(TEMPLATE.name).render(
        report=report,
        contract=contract,
        metrics=list(METRICS),
        pictures={p.stem: base64.b64encode(p.read_bytes()).decode() for p in pictures},
        strongest=[(contract.features[f], mean[f]) for f in strongest],
    )
    atomic.write_text(folder / "model_card.html", page + "\n")
    return folder
