"""Sessionization: ours beside pandas and Polars on the same file, and NumPy's sort as the floor.

python -m benchmarks.sessionize [--small]

Each contender reads the file, finds each event's session start, and counts the sessions. The floor
only sorts the (shopper, time) pairs. `ours_published` also ranks, hashes ids, flags bots and writes
the table: the verb's whole work.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report, shop_log
from nextbuy.settings import Settings
from nextbuy.shop import SessionConfig
from nextbuy.times import MINUTE

GAP_US = 30 * MINUTE


def timed(work: Any, runs: int) -> dict[str, Any]:
    measured, counts = [], set()
    for _ in range(runs):
        begun = time.perf_counter()
        counts.add(work())
        measured.append(time.perf_counter() - begun)
    (sessions,) = counts
    return {"measured": measured, "sessions": sessions}


def ours(given: argparse.Namespace) -> dict[str, Any]:
    """The definition itself, its ids and bot flags included."""
    import ibis

    from nextbuy.connection import duckdb_connection
    from nextbuy.tables.sessions import EVENTS, sessionize

    sql = ibis.to_sql(sessionize(EVENTS, SessionConfig()), dialect="duckdb")
    settings = Settings(data=Path(given.folder))

    def run() -> int:
        with duckdb_connection(settings) as connection:
            connection.execute(
                "CREATE VIEW events AS SELECT * EXCLUDE event_time, epoch_us(event_time) AS "
                f"event_us FROM '{given.folder}/events.parquet'"
            )
            ((n,),) = connection.execute(
                f"SELECT count(DISTINCT (user_id, session_start_us)) FROM ({sql})"
            ).fetchall()
            return int(n)

    return timed(run, given.runs)


def ours_published(given: argparse.Namespace) -> dict[str, Any]:
    """`nextbuy sessionize` without the labels."""
    from nextbuy.tables.build import stage_sessions

    settings = Settings(data=Path(given.folder))
    begun = time.perf_counter()
    with stage_sessions(settings, SessionConfig()) as staged:
        sessions = staged.publish()
    return {"measured": [time.perf_counter() - begun], "rows": sessions.rows}


def pandas(given: argparse.Namespace) -> dict[str, Any]:
    import pandas as pd

    def run() -> int:
        frame = pd.read_parquet(
            f"{given.folder}/events.parquet", columns=["user_id", "event_time", "event_id"]
        )
        frame = frame.sort_values(["user_id", "event_time", "event_id"])
        gap = frame.groupby("user_id")["event_time"].diff() > pd.Timedelta(minutes=30)
        first = frame["user_id"] != frame["user_id"].shift()
        frame["session"] = (gap | first).cumsum()
        return int(frame["session"].iloc[-1])

    return timed(run, given.runs)


def polars(given: argparse.Namespace) -> dict[str, Any]:
    import polars as pl

    def run() -> int:
        gap = pl.col("event_time").diff().over("user_id", order_by=["event_time", "event_id"])
        starts = gap.is_null() | (gap > pl.duration(minutes=30))
        frame = (
            pl.scan_parquet(f"{given.folder}/events.parquet")
            .select("user_id", "event_time", "event_id")
            .with_columns(is_start=starts)
            .with_columns(
                session=pl.col("is_start")
                .cum_sum()
                .over("user_id", order_by=["event_time", "event_id"])
            )
            .collect()
        )
        return int(frame["is_start"].sum())

    return timed(run, given.runs)


def floor(given: argparse.Namespace) -> dict[str, Any]:
    """The sort alone, over numbers read beforehand."""
    import duckdb
    import numpy as np

    columns = duckdb.sql(
        f"SELECT hash(user_id) AS u, epoch_us(event_time) AS t FROM '{given.folder}/events.parquet'"
    ).fetchnumpy()

    def run() -> int:
        order = np.lexsort((columns["t"], columns["u"]))
        user, at = columns["u"][order], columns["t"][order]
        return int(1 + ((user[1:] != user[:-1]) | (at[1:] - at[:-1] > GAP_US)).sum())

    return timed(run, given.runs)


CONTENDERS = {
    "ours": ours,
    "ours_published": ours_published,
    "pandas": pandas,
    "polars": polars,
    "floor": floor,
}


def main() -> None:
    given = report.arguments(folder="", runs=3, events=10_000_000)
    if given.contender:
        report.run_contender(CONTENDERS, given)
        return
    events = 500_000 if given.small else given.events
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(data=Path(folder))
        shop_log.publish(settings, events)
        shop_log.events_file(settings, Path(folder) / "events.parquet")
        results = {
            name: report.measure("benchmarks.sessionize", name, folder=folder, runs=given.runs)
            for name in CONTENDERS
        }
    counts = {name: r.values["sessions"] for name, r in results.items() if "sessions" in r.values}
    assert len(set(counts.values())) == 1, json.dumps(counts)
    report.write(
        "sessionize",
        work=f"find the sessions of {report.millions([events])} events",
        unit="s",
        better="lower",
        ours=results["ours"].median,
        peers={name: results[name].median for name in ("pandas", "polars")},
        floor=results["floor"].median,
        peak_memory_gb={name: r.peak_memory_gb for name, r in results.items()},
        small=given.small,
        published_s=results["ours_published"].median,
    )


if __name__ == "__main__":
    main()
