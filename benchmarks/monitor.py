"""A monitoring run over a million served predictions, and the dashboard's time to first paint.

What is timed: the suite of the prediction log, outcomes joined to the sessions, a week-by-week
measurement, and drift of the served vectors (ours samples). The peer is Evidently's own report on
the same two windows, unsampled rows cut to what it can hold; the floor is reading the log.
"""

import argparse
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import report

ROWS = 1_000_000
FEATURES = 20
PEER_ROWS = 50_000
START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = START + timedelta(days=60)
WRITER = "bench"


def shop(folder: Path, rows: int) -> None:
    """Events, sessions, labels, and a log of `rows` predictions over 56 days."""
    import sys

    from nextbuy.labels import LabelConfig
    from nextbuy.predictions import PREDICTION_SCHEMA, write_predictions
    from nextbuy.sessions import SessionConfig
    from nextbuy.settings import Settings
    from nextbuy.tables import build_labels, build_sessions

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "monitoring"))
    from small_events import month, publish

    settings = Settings(data=folder)
    publish(month(days=60, per_day=max(200, rows // 300)), settings)
    build_sessions(settings, SessionConfig(), lambda *_: None)
    build_labels(settings, LabelConfig(horizon_days=14), lambda *_: None)
    rng = np.random.default_rng(1)
    micro = np.sort(rng.integers(0, 56 * 86_400_000_000, rows)) + int(START.timestamp() * 1e6)
    matrix = rng.normal(0, 1, (rows, FEATURES)).astype(np.float32)
    table = pa.table(
        {
            "request_id": pa.array(np.char.add("r", (np.arange(rows) // 10).astype(str))),
            "predicted_at": pa.array(micro, pa.timestamp("us", "UTC")),
            "read_at": pa.array(micro, pa.timestamp("us", "UTC")),
            "user_id": pa.array(np.char.add("u", rng.integers(0, 400, rows).astype(str))),
            "item_id": pa.array(np.char.add("i", (np.arange(rows) % 300).astype(str))),
            "probability": rng.beta(0.6, 8, rows),
            "rank": pa.array(np.arange(rows) % 10 + 1, pa.int32()),
            "model": pa.array(["nextbuy:bench"] * rows),
            "is_shadow": pa.array(np.zeros(rows, bool)),
            "is_degraded": pa.array(np.zeros(rows, bool)),
            "has_reasons": pa.array(np.zeros(rows, bool)),
            "has_context": pa.array(np.zeros(rows, bool)),
            "vector": pa.ListArray.from_arrays(
                np.arange(rows + 1, dtype=np.int32) * FEATURES, matrix.ravel()
            ),
        },
        schema=PREDICTION_SCHEMA,
    )
    write_predictions(settings, table, WRITER, 1)


def ours(given: argparse.Namespace) -> dict[str, Any]:
    from monitoring.checks import check
    from monitoring.config import MonitoringConfig
    from monitoring.drift import drift_rows
    from monitoring.outcomes import judged
    from monitoring.performance import by_week
    from monitoring.signals import newest_event
    from monitoring.suites.predictions import prediction_rules
    from nextbuy.predictions import read_predictions
    from nextbuy.settings import Settings

    settings, config = Settings(data=Path(given.folder)), MonitoringConfig()
    steps: dict[str, float] = {}
    began = time.perf_counter()

    def lap(name: str) -> None:
        steps[name] = time.perf_counter() - began - sum(steps.values())

    files = f"{settings.predictions}/day=*/[!.]*.parquet"
    check("predictions", files, prediction_rules(NOW), settings, config, NOW)
    lap("checks")
    log = read_predictions(settings)
    lap("read")
    rows = judged(settings, log.drop_columns(["vector"]), NOW)
    lap("outcomes")
    horizon = timedelta(days=14)
    by_week(rows, "served", horizon, newest_event(settings), NOW, config.performance)
    lap("performance")
    half = log.num_rows // 2
    drift_rows(_vectors(log[:half]), _vectors(log[half:]), "served", NOW, NOW, config.drift)
    lap("drift")
    return {"measured": [time.perf_counter() - began], "steps": steps}


def evidently(given: argparse.Namespace) -> dict[str, Any]:
    from evidently import Report
    from evidently.presets import DataDriftPreset

    from nextbuy.predictions import read_predictions
    from nextbuy.settings import Settings

    began = time.perf_counter()
    log = read_predictions(Settings(data=Path(given.folder)))
    half = log.num_rows // 2
    pair = [log[:half], log[half:]]
    frames = [_vectors(part[: min(part.num_rows, PEER_ROWS)]).to_pandas() for part in pair]
    Report([DataDriftPreset(num_method="wasserstein")]).run(frames[1], frames[0])
    return {"measured": [time.perf_counter() - began]}


def floor(given: argparse.Namespace) -> dict[str, Any]:
    from nextbuy.predictions import read_predictions
    from nextbuy.settings import Settings

    began = time.perf_counter()
    read_predictions(Settings(data=Path(given.folder)))
    return {"measured": [time.perf_counter() - began]}


def first_paint(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds until the page Today shows its text in the system's Chromium; the second visit."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "monitoring"))
    from browser import chromium, dashboard, missing, opened

    if missing():
        return {"measured": [float("nan")], "why": missing()}
    with dashboard({"NEXTBUY_DATA": given.folder}) as url, chromium() as driver:
        times = []
        for _ in range(4):
            began = time.perf_counter()
            opened(driver, url, "today")
            times.append(time.perf_counter() - began)
    return {"measured": times[1:], "first": times[0]}


def _vectors(log: pa.Table) -> pa.Table:
    flat = log["vector"].combine_chunks().flatten().to_numpy().reshape(-1, FEATURES)
    return pa.table({f"view__f{i}": flat[:, i] for i in range(FEATURES)})


CONTENDERS = {
    "ours": ours,
    "evidently's drift report": evidently,
    "reading the log": floor,
    "first paint": first_paint,
}


def main() -> None:
    given = report.arguments(folder="")
    if given.contender:
        report.run_contender(CONTENDERS, given)
        return
    rows = 20_000 if given.small else ROWS
    with tempfile.TemporaryDirectory() as folder:
        shop(Path(folder), rows)
        print(f"monitor {report.millions([rows])} predictions", flush=True)
        mine = report.measure("benchmarks.monitor", "ours", folder=folder)
        peer = report.measure("benchmarks.monitor", "evidently's drift report", folder=folder)
        bare = report.measure("benchmarks.monitor", "reading the log", folder=folder)
        paint = report.measure("benchmarks.monitor", "first paint", folder=folder)
    name = f"evidently's drift report alone ({PEER_ROWS:,} rows a window)"
    report.write(
        "monitor",
        work=f"{report.millions([rows])} predictions: checks, outcomes, performance, drift",
        unit="s",
        better="lower",
        ours=mine.median,
        peers={name: peer.median},
        floor=bare.median,
        peak_memory_gb={
            "ours": mine.peak_memory_gb,
            name: peer.peak_memory_gb,
            "reading the log": bare.peak_memory_gb,
        },
        small=given.small,
        steps=mine.values["steps"],
        first_paint_s=paint.median,
        first_paint_cold_s=paint.values.get("first"),
    )


if __name__ == "__main__":
    main()
