"""Ten million events by the suite of the events: ours, Great Expectations on pandas, bare DuckDB.

The floor runs the suite's row conditions as one SQL query, without Great Expectations. The peer
gets a tenth of the rows (its memory is given per row); its time is scaled by ten.
"""

import argparse
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks import report

ROWS = 10_000_000
DAYS = 30
NOW = datetime(2024, 2, 15, tzinfo=UTC)


def events(folder: Path, rows: int) -> Path:
    import duckdb

    file = folder / f"events-{rows}.parquet"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'; SELECT setseed(0.5)")
        connection.execute(
            "COPY (SELECT md5(i::VARCHAR) AS event_id, "
            f"'u' || (hash(i) % {max(rows // 100, 1)}) AS user_id, "
            "make_timestamptz((1704067200 + hash(i * 3) % "
            f"({DAYS} * 86400))::BIGINT * 1000000) AS event_time, "
            "CASE WHEN hash(i * 5) % 100 < 70 THEN 'view' WHEN hash(i * 5) % 100 < 80 THEN 'scroll'"
            " WHEN hash(i * 5) % 100 < 92 THEN 'add_to_cart' WHEN hash(i * 5) % 100 < 95 THEN "
            "'remove_from_cart' ELSE 'purchase' END AS event_type, "
            "'i' || (hash(i * 7) % 50000) AS item_id, 'c' || (hash(i * 11) % 200) AS category, "
            "'b' || (hash(i * 13) % 900) AS brand, (100 + hash(i * 17) % 99000)::BIGINT AS price, "
            "0::BIGINT AS discount, NULL::VARCHAR AS source_session_id "
            f"FROM range({rows}) r(i)) TO '{file}' (FORMAT parquet, COMPRESSION zstd)"
        )
    return file


def ours(options: argparse.Namespace) -> dict[str, Any]:
    from monitoring.checks import check_events
    from monitoring.config import MonitoringConfig
    from nextbuy.settings import Settings

    settings = Settings(data=Path(options.folder) / "data")
    measured, passed = [], 0
    for _ in range(options.repeats):
        began = time.perf_counter()
        checked = check_events(options.file, settings, config=MonitoringConfig(), now=NOW)
        measured.append(time.perf_counter() - began)
        passed = sum(bool(result.passed) for result in checked.results)
    return {"measured": measured, "checks": len(checked.results), "passed": passed}


def floor(options: argparse.Namespace) -> dict[str, Any]:
    from monitoring.suites.events import EventBounds, event_checks
    from nextbuy.connection import duckdb_connection
    from nextbuy.settings import Settings
    from nextbuy.shop import SessionConfig

    checks = event_checks(NOW, EventBounds(), SessionConfig().max_shoppers)
    failing = [check.failing for check in checks if check.failing]
    counts = ", ".join(f"count(*) FILTER ({condition})" for condition in failing)
    measured = []
    for _ in range(options.repeats):
        began = time.perf_counter()
        with duckdb_connection(Settings(data=Path(options.folder) / "data")) as connection:
            connection.execute(
                f"SELECT {counts}, count(DISTINCT event_id) FROM read_parquet('{options.file}')"
            ).fetchall()
        measured.append(time.perf_counter() - began)
    return {"measured": measured}


def pandas(options: argparse.Namespace) -> dict[str, Any]:
    """Great Expectations' own expectations of the same columns, in memory."""
    import great_expectations as gx
    import pandas as pd

    began = time.perf_counter()
    frame = pd.read_parquet(options.file)
    context = gx.get_context(mode="ephemeral")
    batch = (
        context.data_sources.add_pandas("pandas")
        .add_dataframe_asset("events")
        .add_batch_definition_whole_dataframe("all")
    )
    suite = context.suites.add(gx.ExpectationSuite("events"))
    expectations = [
        *(
            gx.expectations.ExpectColumnValuesToNotBeNull(column=name)
            for name in ("event_id", "user_id", "event_time", "event_type", "item_id")
        ),
        gx.expectations.ExpectColumnValuesToBeUnique(column="event_id"),
        gx.expectations.ExpectColumnValuesToBeInSet(
            column="event_type",
            value_set=["view", "scroll", "add_to_cart", "remove_from_cart", "purchase", "login"],
        ),
        *(
            gx.expectations.ExpectColumnValuesToBeBetween(column=name, min_value=0)
            for name in ("price", "discount")
        ),
        gx.expectations.ExpectColumnValuesToBeBetween(
            column="event_time",
            min_value=datetime(1995, 1, 1, tzinfo=UTC),
            max_value=NOW + timedelta(days=1),
        ),
        *(
            gx.expectations.ExpectColumnValueLengthsToBeBetween(column=name, max_value=512)
            for name in ("user_id", "item_id", "category", "brand")
        ),
    ]
    for expectation in expectations:
        suite.add_expectation(expectation)
    outcome = batch.get_batch({"dataframe": frame}).validate(suite)
    return {"measured": [time.perf_counter() - began], "passed": bool(outcome.success)}


CONTENDERS = {"ours": ours, "great expectations on pandas": pandas, "one duckdb query": floor}


def main() -> None:
    options = report.arguments(folder="", file="", repeats=1)
    if options.contender:
        report.run_contender(CONTENDERS, options)
        return
    rows = 200_000 if options.small else ROWS
    with tempfile.TemporaryDirectory() as folder:
        file = events(Path(folder), rows)
        tenth = events(Path(folder), rows // 10)
        print(f"check {report.millions([rows])} events", flush=True)
        run = {"folder": folder, "file": str(file)}
        mine = report.measure("benchmarks.checks", "ours", repeats=3, **run)
        bare = report.measure("benchmarks.checks", "one duckdb query", repeats=3, **run)
        peer = report.measure(
            "benchmarks.checks", "great expectations on pandas", folder=folder, file=str(tenth)
        )
    report.write(
        "checks",
        work=f"{report.millions([rows])} events by {mine.values['checks']} checks",
        unit="s",
        better="lower",
        ours=mine.median,
        peers={"great expectations on pandas (a tenth of the rows, × 10)": peer.median * 10},
        floor=bare.median,
        peak_memory_gb={
            "ours": mine.peak_memory_gb,
            "great expectations on pandas (a tenth of the rows)": peer.peak_memory_gb,
            "one duckdb query": bare.peak_memory_gb,
        },
        small=options.small,
    )


if __name__ == "__main__":
    main()
