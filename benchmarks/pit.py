"""Point-in-time retrieval: our offline store, stock Feast's, and a bare DuckDB as-of join.

python -m benchmarks.pit [--small]
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb

from benchmarks import report

FEATURES = 15
CASES = {
    # name: (entity rows, history rows, keys of the history, requested keys, views, peers)
    "pit": (500_000, 4_000_000, 20_000, 20_000, 1, ("stock",)),
    "pit_many_keys": (500_000, 4_000_000, 100_000, 100_000, 1, ("stock",)),
    "pit_few_keys": (50_000, 5_000_000, 50_000, 5_000, 1, ("stock",)),
    "pit_short_history": (50_000, 5_000_000, 500_000, 50_000, 1, ("stock",)),
    "pit_large_quarter": (500_000, 5_000_000, 100_000, 100_000, 5, ()),
    "pit_large": (2_000_000, 20_000_000, 400_000, 400_000, 5, ()),
}


def make(folder: Path, rows: int, history: int, keys: int, requested: int, views: int) -> None:
    """History ordered by time, as feature tables are written; keys and times spread evenly."""
    values = ", ".join(
        f"(hash(i * 31 + {j}) % 1000000) / 1000.0 AS f{j}"
        if j % 2
        else f"(hash(i * 31 + {j}) % 1000)::BIGINT AS f{j}"
        for j in range(FEATURES)
    )
    start = "TIMESTAMPTZ '2024-01-01 00:00:00+00'"
    second = "to_microseconds((hash(i * {}) % 31536000)::BIGINT * 1000000)"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for view in range(views):
            connection.execute(
                f"COPY (SELECT hash(i * 7 + {view})::UBIGINT % {keys}::UBIGINT AS key, "
                f"{start} + {second.format(13 + view)} AS event_timestamp, {values} "
                f"FROM range({history // views}) t(i) ORDER BY event_timestamp) "
                f"TO '{folder}/v{view}.parquet' (FORMAT parquet, COMPRESSION zstd)"
            )
        connection.execute(
            f"COPY (SELECT hash(i * 3)::UBIGINT % {requested}::UBIGINT AS key, "
            f"{start} + {second.format(17)} AS event_timestamp FROM range({rows}) t(i)) "
            f"TO '{folder}/rows.parquet' (FORMAT parquet)"
        )


def retrieve(given: argparse.Namespace, offline: str) -> dict[str, Any]:
    """Through Feast, on the offline store of this type."""
    import pandas as pd
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Float64, Int64
    from feast.value_type import ValueType

    folder = Path(given.folder)
    key = Entity(name="key", join_keys=["key"], value_type=ValueType.INT64)
    views = [
        FeatureView(
            name=f"v{view}",
            entities=[key],
            source=FileSource(
                name=f"s{view}",
                path=str(folder / f"v{view}.parquet"),
                timestamp_field="event_timestamp",
            ),
            schema=[Field(name="key", dtype=Int64)]
            + [Field(name=f"f{j}", dtype=Float64 if j % 2 else Int64) for j in range(FEATURES)],
        )
        for view in range(given.views)
    ]
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=f"{folder}/{offline}.db",
            repo_path=folder,
            offline_store={"type": offline},
            online_store=None,
            entity_key_serialization_version=3,
        )
    )
    store.apply([key, *views])
    refs = [f"v{view}:f{j}" for view in range(given.views) for j in range(FEATURES)]
    rows = pd.read_parquet(folder / "rows.parquet")
    measured, matched = [], 0
    for _ in range(given.repeats):
        started = time.perf_counter()
        table = store.get_historical_features(rows, refs, full_feature_names=True).to_arrow()
        measured.append(time.perf_counter() - started)
        assert table.num_rows == len(rows)
        matched = len(rows) - table["v0__f0"].null_count
        del table
    return {"measured": measured, "matched": matched}


def bare(given: argparse.Namespace) -> dict[str, Any]:
    """The floor: DuckDB's as-of join of the same files and nothing else."""
    joins = " ".join(
        f"ASOF LEFT JOIN '{given.folder}/v{view}.parquet' v{view} ON r.key = v{view}.key "
        f"AND r.event_timestamp >= v{view}.event_timestamp"
        for view in range(given.views)
    )
    values = ", ".join(f"v{view}.f{j}" for view in range(given.views) for j in range(FEATURES))
    measured, matched = [], 0
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET memory_limit = '4GB'")
        connection.execute(f"CREATE TABLE r AS FROM '{given.folder}/rows.parquet'")
        for _ in range(given.repeats):
            started = time.perf_counter()
            table = connection.sql(f"SELECT r.*, {values} FROM r {joins}").to_arrow_table()
            measured.append(time.perf_counter() - started)
            matched = table.num_rows - table["f0"].null_count if given.views == 1 else -1
            del table
    return {"measured": measured, "matched": matched}


CONTENDERS: dict[str, report.Contender] = {
    "ours": lambda given: retrieve(given, "nextbuy.stores.offline.NextbuyOfflineStore"),
    "stock Feast": lambda given: retrieve(given, "duckdb"),
    "floor": bare,
}


def compare(name: str, small: bool) -> None:
    rows, history, keys, requested, views, peers = CASES[name]
    if small:
        rows, history, keys, requested = (n // 100 for n in (rows, history, keys, requested))
    work = f"{report.millions([rows, history])} rows × {FEATURES} features × {views} views"
    print(f"{name}: {work}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NEXTBUY_DATA"] = f"{folder}/data"
        make(Path(folder), rows, history, keys, requested, views)
        options = {"folder": folder, "views": views}

        def run(contender: str, repeats: int) -> report.Result:
            return report.measure("benchmarks.pit", contender, repeats=repeats, **options)

        floor, ours = run("floor", 3), run("ours", 3)
        stock = {"stock Feast": run("stock Feast", 1 if not small else 2)} if peers else {}
    for other in [floor, *stock.values()]:
        assert other.values["matched"] in (-1, ours.values["matched"])
    report.write(
        name,
        work=work,
        unit="s",
        better="lower",
        ours=ours.median,
        peers={peer: result.median for peer, result in stock.items()},
        floor=floor.median,
        peak_memory_gb={
            "ours": ours.peak_memory_gb,
            **{peer: result.peak_memory_gb for peer, result in stock.items()},
            "floor": floor.peak_memory_gb,
        },
        small=small,
    )


if __name__ == "__main__":
    given = report.arguments(folder="", views=1, repeats=1, only="")
    if given.contender:
        report.run_contender(CONTENDERS, given)
    else:
        for case in [given.only] if given.only else CASES:
            compare(case, given.small)
