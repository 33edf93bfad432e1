"""Materialization to Redis: ours, stock Feast's, and `redis-cli --pipe` with the same bytes.

python -m benchmarks.materialize [--small]
"""

import argparse
import os
import subprocess
import tempfile
import time
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import duckdb
from hiredis import pack_command

from benchmarks import report
from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import connect, find_redis_server, running_redis

FEATURES = 15
BATCH = 5_000
START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)


def make(folder: Path, keys: int, history: int) -> None:
    """`history` rows of each key through a year, ordered by time."""
    values = ", ".join(
        f"(hash(i * 31 + {j}) % 1000000) / 1000.0 AS f{j}"
        if j % 2
        else f"(hash(i * 31 + {j}) % 1000)::BIGINT AS f{j}"
        for j in range(FEATURES)
    )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            f"COPY (SELECT 'user-' || (i % {keys}) AS user_id, "
            "TIMESTAMPTZ '2024-01-01 00:00:00+00' + "
            "to_microseconds((hash(i) % 31536000)::BIGINT * 1000000) AS event_timestamp, "
            f"{values} FROM range({keys * history}) t(i) ORDER BY event_timestamp) "
            f"TO '{folder}/t{history}.parquet' (FORMAT parquet, COMPRESSION zstd)"
        )


def materialize(given: argparse.Namespace, ours: bool, packed: bool = False) -> dict[str, Any]:
    """Keys per second of `FeatureStore.materialize`."""
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Float64, Int64, String
    from feast.value_type import ValueType

    folder = Path(given.folder)
    user = Entity(name="user_id", join_keys=["user_id"], value_type=ValueType.STRING)
    view = FeatureView(
        name="stats",
        entities=[user],
        source=FileSource(
            name="source",
            path=str(folder / f"t{given.history}.parquet"),
            timestamp_field="event_timestamp",
        ),
        schema=[Field(name="user_id", dtype=String)]
        + [Field(name=f"f{j}", dtype=Float64 if j % 2 else Int64) for j in range(FEATURES)],
    )
    socket = Settings().redis / "redis.sock"
    stores: dict[str, Any] = {
        "offline_store": {"type": "duckdb"},
        "online_store": {
            "type": "redis",
            "connection_string": f"localhost:0,unix_socket_path={socket}",
        },
        "batch_engine": {"type": "local"},
    }
    if ours:
        stores = {
            "offline_store": {"type": "nextbuy.stores.offline.NextbuyOfflineStore"},
            "online_store": {"type": "nextbuy.stores.online.NextbuyOnlineStore", "packed": packed},
            "batch_engine": {"type": "nextbuy.stores.compute_engine.NextbuyEngine"},
        }
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=f"{folder}/{ours}.db",
            repo_path=folder,
            entity_key_serialization_version=3,
            **stores,
        )
    )
    store.apply([user, view])
    client, measured = connect(Settings()), []
    for _ in range(given.repeats):
        client.flushall()
        started = time.perf_counter()
        store.materialize(START, END)
        measured.append(given.keys / (time.perf_counter() - started))
    assert sum(not key.startswith((b"nextbuy:", b"nb")) for key in client.scan_iter()) == given.keys
    return {"measured": measured}


def pipe(given: argparse.Namespace) -> dict[str, Any]:
    """The floor: the hashes that ours left in Redis, loaded by redis-cli."""
    client = connect(Settings())
    keys = [
        key for key in client.scan_iter(count=10_000) if not key.startswith((b"nextbuy:", b"nb"))
    ]
    payload = Path(given.folder) / "pipe.resp"
    with payload.open("wb") as file:
        for start in range(0, len(keys), BATCH):
            batch = keys[start : start + BATCH]
            with client.pipeline(transaction=False) as pipeline:
                for key in batch:
                    pipeline.hgetall(key)
                hashes = pipeline.execute()
            for key, fields in zip(batch, hashes, strict=True):
                file.write(pack_command((b"HSET", key, *chain.from_iterable(fields.items()))))
    loader = [find_redis_server().with_name("redis-cli"), "-s", Settings().redis / "redis.sock"]
    measured = []
    for _ in range(given.repeats):
        client.flushall()
        started = time.perf_counter()
        with payload.open("rb") as file:
            subprocess.run([*loader, "--pipe"], stdin=file, capture_output=True, check=True)
        measured.append(len(keys) / (time.perf_counter() - started))
    assert client.dbsize() == given.keys
    return {"measured": measured}


CONTENDERS: dict[str, report.Contender] = {
    "ours": lambda given: materialize(given, ours=True),
    "ours, packed too": lambda given: materialize(given, ours=True, packed=True),
    "stock Feast": lambda given: materialize(given, ours=False),
    "floor": pipe,
}


def main(small: bool) -> None:
    keys, history = (2_000, 50) if small else (100_000, 50)
    work = f"{keys} keys with {history} rows of history each, {FEATURES} features"
    print(f"materialize: {work}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NEXTBUY_DATA"] = f"{folder}/d"
        os.environ.pop("REDIS_URL", None)
        for rows in (history, history // 5):
            make(Path(folder), keys, rows)

        def run(contender: str, repeats: int = 2, history: int = history) -> report.Result:
            return report.measure(
                "benchmarks.materialize",
                contender,
                folder=folder,
                keys=keys,
                history=history,
                repeats=repeats,
            )

        with running_redis(Settings()):
            short = run("ours", repeats=1, history=history // 5)
            ours = run("ours")
            floor = run("floor")
            packed = run("ours, packed too")
            stock = run("stock Feast", repeats=1)
    memory = {"stock Feast": stock.peak_memory_gb, "floor": floor.peak_memory_gb}
    for name, result in (("materialize", ours), ("materialize_packed", packed)):
        report.write(
            name,
            work=work + (", both layouts" if result is packed else ""),
            unit="keys/s",
            better="higher",
            ours=result.median,
            peers={"stock Feast": stock.median},
            floor=floor.median,
            peak_memory_gb={
                "ours": result.peak_memory_gb,
                f"ours, {history // 5} rows of history": short.peak_memory_gb,
                **memory,
            },
            small=small,
        )


if __name__ == "__main__":
    given = report.arguments(folder="", keys=0, history=0, repeats=1)
    if given.contender:
        report.run_contender(CONTENDERS, given)
    else:
        main(given.small)
