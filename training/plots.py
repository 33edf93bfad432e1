"""The pictures of a model card, as PNG files."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import precision_recall_curve

from nextbuy.models.metrics import CALIBRATION_BINS, calibration_curve
from training.metrics import Labels, Vector

SHOWN_FEATURES = 20


def plots(
    folder: Path,
    labels: Labels,
    scores: Mapping[str, Vector],
    model: str,
    curve: list[dict[str, float]],
    shap: tuple[tuple[str, ...], NDArray[np.float64], NDArray[np.float32]],
) -> list[Path]:
    """Draw all pictures into `folder`.

    Args:
        folder: exists.
        labels: of the test rows.
        scores: name -> probabilities of the test rows.
        model: its name among them.
        curve: of `nextbuy.models.economics.profit`.
        shap: feature names, SHAP values and feature values of some rows, (rows, features) each.
    """
    score = scores[model]
    drawn: dict[str, Callable[[Axes], None]] = {
        "precision_recall": lambda ax: _precision_recall(ax, labels, scores),
        "reliability": lambda ax: _reliability(ax, labels, score),
        "gain": lambda ax: _gain(ax, labels, scores),
        "lift": lambda ax: _lift(ax, labels, scores),
        "profit": lambda ax: _profit(ax, curve),
        "shap": lambda ax: _shap(ax, *shap),
    }
    files = []
    for name, draw in drawn.items():
        # Without pyplot: it keeps global state and picks a display's backend.
        figure = Figure(figsize=(8, 7) if name == "shap" else (6, 4.2), layout="constrained")
        draw(figure.add_subplot())
        file = folder / f"{name}.png"
        # No version of the library in the file: equal figures, equal bytes.
        figure.savefig(file, dpi=110, metadata={"Software": None})
        files.append(file)
    return files


def _precision_recall(ax: Axes, labels: Labels, scores: Mapping[str, Vector]) -> None:
    for name, score in scores.items():
        precision, recall, _ = precision_recall_curve(labels, score)
        ax.step(recall, precision, where="post", label=name)
    ax.axhline(labels.mean(), color="grey", linestyle=":", label="base rate")
    ax.set(xlabel="recall", ylabel="precision", title="Precision and recall", ylim=(0, 1.02))
    ax.legend(fontsize=8)


def _reliability(ax: Axes, labels: Labels, score: Vector) -> None:
    predicted, observed, _ = zip(*calibration_curve(labels, score), strict=True)
    ends = (max(min(*predicted, *observed), 1e-4) / 2, 1.0)
    ax.plot(ends, ends, color="grey", linestyle=":")
    ax.plot(predicted, np.maximum(observed, ends[0]), marker="o")
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="predicted",
        ylabel="observed",
        title=f"Reliability, {CALIBRATION_BINS} bins of equal size",
    )


def _gain(ax: Axes, labels: Labels, scores: Mapping[str, Vector]) -> None:
    share = np.arange(1, len(labels) + 1) / len(labels)
    for name, score in scores.items():
        purchases = np.cumsum(labels[np.argsort(-score, kind="stable")])
        ax.plot(share, purchases / labels.sum(), label=name)
    ax.plot([0, 1], [0, 1], color="grey", linestyle=":")
    ax.set(xlabel="share of the rows contacted", ylabel="share of purchases found", title="Gain")
    ax.legend(fontsize=8)


def _lift(ax: Axes, labels: Labels, scores: Mapping[str, Vector]) -> None:
    first = max(len(labels) // 200, 1)  # above that, a handful of rows decides
    share = np.arange(first, len(labels) + 1) / len(labels)
    for name, score in scores.items():
        purchases = np.cumsum(labels[np.argsort(-score, kind="stable")])[first - 1 :]
        ax.plot(share, purchases / labels.sum() / share, label=name)
    ax.axhline(1, color="grey", linestyle=":")
    ax.set(xscale="log", xlabel="share of the rows contacted", ylabel="lift", title="Lift")
    ax.legend(fontsize=8)


def _profit(ax: Axes, curve: list[dict[str, float]]) -> None:
    share = [point["share"] for point in curve]
    for name in ("expected", "realized"):
        ax.plot(share, [point[f"{name}_cents"] / 100 for point in curve], label=name)
    ax.axhline(0, color="grey", linestyle=":")
    ax.set(xlabel="share of the rows contacted", ylabel="profit", title="Profit")
    ax.legend(fontsize=8)


def _shap(
    ax: Axes, names: tuple[str, ...], effects: NDArray[Any], values: NDArray[np.float32]
) -> None:
    strongest = np.argsort(-np.abs(effects).mean(axis=0), kind="stable")[:SHOWN_FEATURES][::-1]
    rng = np.random.default_rng(7)
    for row, feature in enumerate(strongest):
        value = values[:, feature]
        known = np.isfinite(value)
        rank = np.full(len(value), np.nan)
        rank[known] = np.argsort(np.argsort(value[known])) / max(known.sum() - 1, 1)
        jitter = row + rng.uniform(-0.3, 0.3, len(value))
        ax.scatter(effects[~known, feature], jitter[~known], s=3, color="lightgrey")
        ax.scatter(
            effects[known, feature], jitter[known], s=3, c=rank[known], cmap="coolwarm", alpha=0.6
        )
    ax.set_yticks(range(len(strongest)), [names[f] for f in strongest], fontsize=8)
    ax.axvline(0, color="grey", linewidth=0.8)
    ax.set(xlabel="effect on the log-odds (blue: low value, red: high)", title="SHAP values")
