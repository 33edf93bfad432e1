"""Training as the verb does it, from the kept dataset, beside the same fit from a ready matrix.

Ours reads the Parquet file, cuts it by split, encodes it by the contract, fits and calibrates. The
peer gets NumPy matrices and fits. Both grow the same number of trees with the same settings.

python -m benchmarks.train [--small]
"""

import argparse
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import report
from nextbuy.features import TABLES
from nextbuy.models.booster import fit_booster
from nextbuy.models.family import ModelConfig
from training.splits import Splits
from training.train import contract_for

CONFIG = ModelConfig(rounds=200, patience=200)
SHARES = {"train": 0.8, "validation": 0.1, "calibration": 0.05, "test": 0.05}
FEATURES = [(f"{t.name}__{f.name}", f.dtype) for t in TABLES if t.in_model for f in t.features]
PERIOD = (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 2, tzinfo=UTC))


def make(folder: Path, rows: int) -> None:
    """A dataset with every feature of the service, a tenth of the values missing."""
    rng = np.random.default_rng(7)
    intent = np.zeros(rows)
    columns: dict[str, Any] = {
        "user_id": pa.array([f"u{n:06d}" for n in rng.integers(0, rows // 20 + 1, rows)]),
        "item_id": pa.array([f"i{n:05d}" for n in rng.integers(0, 5000, rows)]),
        "event_timestamp": pa.array(
            [PERIOD[0] + timedelta(seconds=int(s)) for s in rng.integers(0, 86_400, rows)],
            pa.timestamp("us", "UTC"),
        ),
    }
    for place, (name, dtype) in enumerate(FEATURES):
        mask = rng.random(rows) < 0.1
        if dtype == "string":
            codes = rng.integers(0, 30, rows)
            columns[name] = pa.array(codes, mask=mask).cast(pa.string())
        elif dtype == "boolean":
            columns[name] = pa.array(rng.random(rows) < 0.3, mask=mask)
        else:
            values = rng.gamma(2.0, 20.0, rows)
            if place % 7 == 0:
                intent += np.where(mask, 0, values / 40 - 1)
            kind = pa.int64() if dtype == "int64" else pa.float64()
            columns[name] = pa.array(values, mask=mask).cast(kind, safe=False)
    chance = 1 / (1 + np.exp(4.5 - 0.5 * intent))
    columns["label"] = pa.array((rng.random(rows) < chance).astype(np.int8))
    columns["split"] = pa.array(rng.choice(list(SHARES), rows, p=list(SHARES.values())))
    pq.write_table(pa.table(columns), folder / "dataset.parquet", compression="zstd")


def ours(arguments: argparse.Namespace) -> dict[str, Any]:
    from training.dataset import Dataset
    from training.train import fit_calibrated

    splits = Splits(train=PERIOD, validation=PERIOD, calibration=PERIOD, test=PERIOD)
    measured = []
    for _ in range(arguments.repeats):
        began = time.perf_counter()
        table = pq.read_table(Path(arguments.folder) / "dataset.parquet")
        dataset = Dataset(table, splits, digest="", registry="")
        booster = fit_calibrated(dataset, "lightgbm", CONFIG)
        measured.append(time.perf_counter() - began)
    return {"measured": measured, "trees": booster.native.num_trees()}


def ready_matrix(arguments: argparse.Namespace) -> dict[str, Any]:
    table = pq.read_table(Path(arguments.folder) / "dataset.parquet")
    names = tuple(name for name, _ in FEATURES)
    split = np.array(table["split"].to_pylist())
    labels = table["label"].to_numpy()
    indices = {name: np.flatnonzero(split == name) for name in ("train", "validation")}
    contract = contract_for(table.take(indices["train"]), names, "s", "lightgbm", CONFIG)
    parts = [(contract.matrix(table.take(rows)), labels[rows]) for rows in indices.values()]
    del table
    measured = []
    for _ in range(arguments.repeats):
        began = time.perf_counter()
        booster = fit_booster(contract, *parts, CONFIG)
        measured.append(time.perf_counter() - began)
    return {"measured": measured, "trees": booster.native.num_trees()}


CONTENDERS: dict[str, report.Contender] = {"ours": ours, "ready matrix": ready_matrix}


def main(small: bool) -> None:
    rows, repeats = (20_000, 2) if small else (1_000_000, 1)
    work = f"{report.millions([rows])} rows × {len(FEATURES)} features, {CONFIG.rounds} trees"
    print(f"train: {work}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), rows)
        options = {"folder": folder, "repeats": repeats}
        results = {n: report.measure("benchmarks.train", n, **options) for n in CONTENDERS}
    ready = results["ready matrix"]
    assert ready.values["trees"] == results["ours"].values["trees"]
    report.write(
        "train",
        work=work,
        unit="s",
        better="lower",
        ours=results["ours"].median,
        peers={},
        floor=ready.median,
        peak_memory_gb={name: result.peak_memory_gb for name, result in results.items()},
        small=small,
    )


if __name__ == "__main__":
    arguments = report.arguments(folder="", repeats=1)
    if arguments.contender:
        report.run_contender(CONTENDERS, arguments)
    else:
        main(arguments.small)
