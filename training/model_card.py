"""The model card: one HTML file that needs no other, and its pictures."""

import base64
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextbuy.contract import ModelContract
from nextbuy.models.booster import Booster
from training.metrics import Labels, Vector
from training.plots import plots

SHAP_ROWS = 1_000

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto;
  padding: 0 1rem }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .25rem .6rem; text-align: right; font-size: 14px }
th:first-child, td:first-child { text-align: left } tr { border-bottom: 1px solid #ddd }
img { max-width: 100%; margin: .5rem 0 } .mine { font-weight: bold }
"""


def write_card(
    folder: Path,
    report: Mapping[str, Any],
    labels: Labels,
    scores: Mapping[str, Vector],
    booster: Booster,
    test: pa.Table,
) -> Path:
    """Draw the pictures and write `model_card.html` into `folder`, which is made; it comes back.

    Args:
        folder: for the card.
        report: of `training.evaluate`.
        labels: of the test rows.
        scores: name -> probabilities of the test rows.
        booster: of the model.
        test: the test rows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    some = np.sort(np.random.default_rng(7).permutation(test.num_rows)[:SHAP_ROWS])
    contract = booster.contract
    matrix = contract.matrix(test.take(pa.array(some)))
    shap = (contract.features, booster.contributions(matrix, exact=True), matrix)
    curve = report["decisions"]["curve"]
    pictures = plots(folder, labels, scores, report["champion"], curve, shap)
    (folder / "model_card.html").write_text(_page(report, contract, pictures, shap[1]))
    return folder


def _page(
    report: Mapping[str, Any],
    contract: ModelContract,
    pictures: Iterable[Path],
    effects: NDArray[np.float64],
) -> str:
    test, decisions = report["test"], report["decisions"]
    shown = ("pr_auc", "roc_auc", "precision_at_5", "recall_at_5", "lift_at_5", "ndcg_10",
             "hit_rate_1", "log_loss", "brier", "calibration_error")  # fmt: skip
    models = [
        (name, *(_interval(metrics.get(metric)) for metric in shown))
        for name, metrics in report["models"].items()
    ]
    cut = [
        (name, f"{s['rows']:,}", f"{s['positives']:,}", *map(_interval, s["metrics"].values()))
        for name, s in report["slices"].items()
    ]
    early = [
        (length, f"{p['rows']:,}", f"{p['positives']:,}",
         *(_interval(p[part]["pr_auc"]) for part in ("metrics", "at_end")),
         _interval(p["difference"]))
        for length, p in (report["prefix"] or {}).items()
    ]  # fmt: skip
    mean = np.abs(effects).mean(axis=0)
    strongest = [
        (contract.features[f], f"{mean[f]:.3f}") for f in np.argsort(-mean, kind="stable")[:15]
    ]
    shares = report["achievable"]
    limit = (
        "<p>Share of what the true probability reaches, (model - base) / (oracle - base): "
        + ", ".join(f"{escape(m)} {v:.1%}" for m, v in shares.items())
        + ".</p>"
        if shares
        else ""
    )
    images = "".join(
        f'<img alt="{p.stem}" src="data:image/png;base64,'
        f'{base64.b64encode(p.read_bytes()).decode()}">'
        for p in pictures
    )
    calibration = contract.calibration
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Nextbuy model {report["version"]}</title>
<style>{STYLE}</style>
<h1>Nextbuy, version {report["version"]} ({report["family"]})</h1>
<p><b>What it answers.</b> The chance that a shopper buys an item touched in the latest session in
the next session, if that begins within the horizon. Feature service
<code>{escape(contract.feature_service)}</code>, {len(contract.features)} features; log-odds
calibrated by {calibration.slope:.3f} x + {calibration.intercept:.3f}.</p>
<p><b>Measured</b> on {test["rows"]:,} rows from {test["from"][:10]} to {test["to"][:10]},
{test["base_rate"]:.2%} of them positive; the model never saw this period. Intervals are 95 %, by
bootstrap over shoppers.</p>
{_table(("model", *shown), models, report["champion"])}
{limit}
<h2>Slices</h2>
{_table(("slice", "rows", "positives", "PR-AUC", "ROC-AUC", "calibration error"), cut)}
<h2>Early in a session</h2>
<p>Items touched by the first events of a session, scored at that moment, beside the score at the
session's end of the same items.</p>
{_table(("events", "rows", "positives", "PR-AUC now", "at the end", "difference"), early)}
<h2>Decisions</h2>
<p>Contacting the {decisions["contacts"]:,} rows above a probability of
{decisions["threshold"]:.3f} was expected to earn {decisions["expected_cents"] / 100:,.2f}
and earned {decisions["realized_cents"] / 100:,.2f}; the best cut in hindsight would have earned
{decisions["best_realized_cents"] / 100:,.2f}.</p>
<h2>Pictures</h2>
{images}
<h2>Strongest features</h2>
{_table(("feature", "mean |SHAP|, log-odds"), strongest)}
<h2>Limits</h2>
<p>It tells who will buy, not whom an offer would move. It knows shoppers, items and categories as
of the last materialization. It was fitted on one shop's log: another shop needs its own.</p>
</html>
"""


def _interval(found: Mapping[str, float] | None) -> str:
    if found is None:
        return "-"
    return f"{found['value']:.3f} ({found['low']:.3f}–{found['high']:.3f})"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], mine: str = "") -> str:
    lines = ["<tr>" + "".join(f"<th>{escape(title)}</th>" for title in head) + "</tr>"]
    for row in rows:
        first, *rest = row
        style = ' class="mine"' if first == mine else ""
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in (first, *rest))
        lines.append(f"<tr{style}>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"
