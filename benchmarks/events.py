"""Events in, features moved: how many a second, and how soon the next answer knows an event.

`ours` is the whole way over HTTP: validated, on the disk, features by the batch definitions, in
Redis. The peer in the same run is Feast's own online write, one row for each view an event moves,
with the features given for nothing. The floor is the acknowledgement alone. Metarank publishes 1
to 3 thousand events a second of its own; that is the mark, not measured here.

Runs on a shop of its own below build/bench, made by `nextbuy demo` the first time.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
from feast import FeatureStore

from benchmarks import report
from bento.serve import running
from nextbuy.connection import duckdb_connection
from nextbuy.live.event_store import COLUMNS, EventRow, LiveStore, now_us
from nextbuy.live.features import live_tables
from nextbuy.live.worker import CURSOR
from nextbuy.settings import PROJECT, Settings
from nextbuy.stores.online.redis_server import connect, running_redis
from nextbuy.versioned_table import files

MARK = 3_000
"""Events a second, the upper end of what Metarank publishes."""
BATCH = 500
SECOND = 1_000_000


def shop(small: bool) -> None:
    """A shop that is built and materialized and has a champion; made once."""
    folder = report.FOLDER / f"events{'-small' * small}-shop"
    os.environ |= {"NEXTBUY_DATA": str(folder / "data"), "BENTOML_HOME": str(folder / "bentoml")}
    os.environ.pop("REDIS_URL", None)
    if not (folder / "done").exists():
        shoppers = "400" if small else "2200"
        command = [Path(sys.executable).parent / "nextbuy", "demo", "--shoppers", shoppers]
        subprocess.run([*command, "--days", "130"], check=True, cwd=PROJECT)
        (folder / "done").touch()


def later_events(settings: Settings, count: int) -> list[dict[str, Any]]:
    """Events of the log's last days again, as new ones after its end, two milliseconds apart."""
    with duckdb_connection(settings) as connection:
        rows = (
            connection.sql(
                f"SELECT * FROM (FROM read_parquet('{files(settings.events)}', "
                f"hive_partitioning = false) "
                f"ORDER BY event_time DESC, event_id LIMIT {count}) ORDER BY event_time, event_id"
            )
            .to_arrow_table()
            .to_pylist()
        )
    with LiveStore(settings) as store:
        newest = max(rows[-1]["event_time"].timestamp(), (store.newest_us() or 0) / SECOND)
    began = datetime.fromtimestamp(int(newest) + 1, UTC)
    run = now_us()
    return [
        {k: v for k, v in row.items() if v is not None}
        | {
            "event_id": f"bench-{run}-{i}",
            "event_time": (began + timedelta(milliseconds=2 * i)).isoformat(),
        }
        for i, row in enumerate(rows)
    ]


def await_worker(settings: Settings) -> None:
    client = connect(settings)
    with LiveStore(settings) as store:
        while store.sequence_from_cursor((client.get(CURSOR) or b"").decode()) < int(
            store.get_meta("seq") or 0
        ):
            time.sleep(0.005)


def ours(given: argparse.Namespace) -> dict[str, Any]:
    settings = Settings()
    with (
        running_redis(settings),
        running(settings) as url,
        httpx.Client(base_url=url, timeout=60) as http,
    ):
        warm, *events = later_events(settings, given.events + given.asked + 1)
        http.post("/events", json=warm).raise_for_status()
        await_worker(settings)
        waits = []
        for event in events[: given.asked]:
            began = time.perf_counter()
            http.post("/events", json=event).raise_for_status()
            wanted = datetime.fromisoformat(event["event_time"])
            while True:
                body = {"user_id": event["user_id"], "item_ids": [event.get("item_id", "i00001")]}
                features_at = http.post("/predict", json=body).json()["features_at"]["user"]
                if features_at and datetime.fromisoformat(features_at) >= wanted:
                    break
            waits.append(time.perf_counter() - began)
        rest = events[given.asked :]
        began = time.perf_counter()
        for start in range(0, len(rest), BATCH):
            answer = http.post("/events", json={"events": rest[start : start + BATCH]})
            answer.raise_for_status()
        acknowledged = time.perf_counter() - began
        await_worker(settings)
        total = time.perf_counter() - began
    return {
        "measured": [len(rest) / total],
        "acknowledged": len(rest) / acknowledged,
        "p50_ms": float(np.percentile(waits, 50)) * 1e3,
        "p99_ms": float(np.percentile(waits, 99)) * 1e3,
    }


def on_disk(given: argparse.Namespace) -> dict[str, Any]:
    events = later_events(Settings(), given.events)
    rows = [
        EventRow._make(now_us() if name == "event_us" else event.get(name) for name in COLUMNS)
        for event in events
    ]
    with (
        tempfile.TemporaryDirectory(dir=report.FOLDER) as folder,
        LiveStore(Settings(data=Path(folder))) as store,
    ):
        began = time.perf_counter()
        for start in range(0, len(rows), BATCH):
            store.append(rows[start : start + BATCH], now_us())
        return {"measured": [len(rows) / (time.perf_counter() - began)]}


def feast_write(given: argparse.Namespace) -> dict[str, Any]:
    settings = Settings()
    with running_redis(settings), duckdb_connection(settings) as connection:
        store = FeatureStore(repo_path=str(settings.feature_repo))
        frames: dict[str, pd.DataFrame] = {
            table.name: connection.sql(
                f"FROM read_parquet('{files(settings.features / table.name)}', "
                "hive_partitioning = false) LIMIT 1"
            ).df()
            for table in live_tables(settings)
        }
        began = time.perf_counter()
        for _ in range(given.asked):
            for view, frame in frames.items():
                store.write_to_online_store(view, frame)
        return {"measured": [given.asked / (time.perf_counter() - began)]}


CONTENDERS = {"nextbuy": ours, "acknowledged": on_disk, "feast write": feast_write}


def main() -> None:
    given = report.arguments(events=0, asked=0)
    if given.contender:
        report.run_contender(CONTENDERS, given)
        return
    shop(given.small)
    events, asked = (5_000, 20) if given.small else (40_000, 100)
    found = {}
    for name in CONTENDERS:
        options = {"events": events, "asked": asked}
        found[name] = report.measure("benchmarks.events", name, **options)
    values = found["nextbuy"].values
    print(
        f"  event to the next score: p50 {values['p50_ms']:.0f} ms, p99 {values['p99_ms']:.0f} ms; "
        f"acknowledged {values['acknowledged']:,.0f} a second"
    )
    report.write(
        "events",
        work=f"{events:,} events over HTTP in requests of {BATCH}, until the features are in Redis",
        unit="events/s",
        better="higher",
        ours=found["nextbuy"].median,
        peers={"feast write": found["feast write"].median, "metarank (published)": MARK},
        floor=found["acknowledged"].median,
        peak_memory_gb={name: each.peak_memory_gb for name, each in found.items()},
        small=given.small,
        **{key: values[key] for key in ("p50_ms", "p99_ms", "acknowledged")},
    )


if __name__ == "__main__":
    main()
