"""A monitoring run over a million served predictions, and the dashboard's time to first paint.

    python -m benchmarks.monitor [--small]

Takes the data folder as it is after `nextbuy demo`, asks the service until so many predictions are
logged, and times `nextbuy monitor` as a whole, step by step. The peer is Evidently's own drift
report on the served vectors, cut to what it can hold; the floor is reading the log.
"""

import argparse
import json
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import report
from benchmarks.predict import ITEMS, bodies, load
from bento.serve import running
from nextbuy.prediction_log import read_predictions
from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import running_redis

ROWS = 1_000_000
PEER_ROWS = 50_000
CLIENTS = 8


def serve(settings: Settings, rows: int) -> int:
    """Ask until so many predictions are logged; how many there are then."""
    logged = read_predictions(settings, columns=["rank"]).num_rows
    if logged < rows:
        requests = (rows - logged) // ITEMS + 1
        sent = [json.dumps(body).encode() for body in bodies(settings, min(requests, 5_000))]
        with running_redis(settings), running(settings, workers=2, at="newest") as url:
            while requests > 0:
                load(url, sent[:requests], CLIENTS)
                requests -= len(sent)
                print(f"  {max(requests, 0):,} requests to go", flush=True)
    return read_predictions(settings, columns=["rank"]).num_rows


def ours(options: argparse.Namespace) -> dict[str, Any]:
    from monitoring.run import monitor, newest_event

    settings = Settings()
    laps = [("start", time.perf_counter())]
    monitor(
        settings,
        newest_event(settings),
        progress=lambda step: laps.append((step, time.perf_counter())),
    )
    laps.append(("end", time.perf_counter()))
    steps = {name: round(end - start, 2) for (name, start), (_, end) in pairwise(laps)}
    return {"measured": [laps[-1][1] - laps[0][1]], "steps": steps}


def evidently(options: argparse.Namespace) -> dict[str, Any]:
    from evidently import Report
    from evidently.presets import DataDriftPreset

    began = time.perf_counter()
    vectors = read_predictions(Settings(), columns=["vector"])["vector"].combine_chunks()
    half = len(vectors) // 2
    frames = [_frame(part[:PEER_ROWS]) for part in (vectors[:half], vectors[half:])]
    Report([DataDriftPreset(num_method="wasserstein")]).run(frames[1], frames[0])
    return {"measured": [time.perf_counter() - began]}


def floor(options: argparse.Namespace) -> dict[str, Any]:
    began = time.perf_counter()
    read_predictions(Settings())
    return {"measured": [time.perf_counter() - began]}


def first_paint(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds until the page Today shows its text in the system's Chromium; the second visit."""
    from tests.monitoring.browser import chromium, dashboard, missing, opened

    if missing():
        return {"measured": [float("nan")], "why": missing()}
    with (
        dashboard({"NEXTBUY_DATA": str(Settings().data)}) as url,
        chromium() as driver,
    ):
        times = []
        for _ in range(4):
            began = time.perf_counter()
            opened(driver, url, "today")
            times.append(time.perf_counter() - began)
    return {"measured": times[1:], "first": times[0]}


def _frame(vectors: pa.ListArray) -> Any:
    matrix = np.array(vectors.to_pylist(), np.float32)
    columns = {f"f{i}": column for i, column in enumerate(matrix.T)}
    return pa.table(columns).to_pandas().dropna(axis="columns", how="all")


CONTENDERS = {
    "ours": ours,
    "evidently's drift report": evidently,
    "reading the log": floor,
    "first paint": first_paint,
}


def main() -> None:
    options = report.arguments(rows=ROWS)
    if options.contender:
        report.run_contender(CONTENDERS, options)
        return
    rows = serve(Settings(), 20_000 if options.small else options.rows)
    print(f"monitor {rows:,} predictions", flush=True)
    mine = report.measure("benchmarks.monitor", "ours")
    peer = report.measure("benchmarks.monitor", "evidently's drift report")
    bare = report.measure("benchmarks.monitor", "reading the log")
    paint = report.measure("benchmarks.monitor", "first paint")
    name = f"evidently's drift report alone ({PEER_ROWS:,} rows a window)"
    print(f"  {mine.values['steps']}")
    report.write(
        "monitor",
        work=f"nextbuy monitor, {rows:,} served predictions",
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
        small=options.small,
        steps=mine.values["steps"],
        first_paint_s=paint.median,
        first_paint_cold_s=paint.values.get("first"),
    )


if __name__ == "__main__":
    main()
