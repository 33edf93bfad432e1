"""Online reads of one user, 50 items and 50 pairs: ours, stock Feast's, and the bare read.

python -m benchmarks.online [--small]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from benchmarks import report
from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import running_redis

FEATURES = 11  # per view, 33 in all
USERS, ITEMS, ROWS = 200, 2_000, 50
VIEWS = {"user": ["user_id"], "item": ["item_id"], "pair": ["item_id", "user_id"]}


def make(folder: Path) -> None:
    values = ", ".join(
        f"(hash(n * 31 + {j}) % 1000000) / 1000.0 AS f{j}"
        if j % 2
        else f"(hash(n * 31 + {j}) % 1000)::BIGINT AS f{j}"
        for j in range(FEATURES)
    )
    users = f"SELECT u AS n, 'user-' || u AS user_id FROM range({USERS}) t(u)"
    items = f"SELECT i AS n, 'item-' || i AS item_id FROM range({ITEMS}) t(i)"
    pairs = (
        f"SELECT u * {ITEMS} + i AS n, 'user-' || u AS user_id, 'item-' || i AS item_id "
        f"FROM range({USERS}) t(u), range({ITEMS}) s(i) WHERE (u + i) % 4 = 0"
    )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, rows in (("user", users), ("item", items), ("pair", pairs)):
            connection.execute(
                f"COPY (SELECT * EXCLUDE (n), TIMESTAMPTZ '2024-06-01 00:00:00+00' + "
                f"to_microseconds(n) AS event_timestamp, {values} FROM ({rows})) "
                f"TO '{folder}/{name}.parquet' (FORMAT parquet)"
            )


def open_store(given: argparse.Namespace, ours: bool) -> Any:
    from feast import (
        Entity,
        FeatureService,
        FeatureStore,
        FeatureView,
        Field,
        FileSource,
        RepoConfig,
    )
    from feast.types import Float64, Int64, String
    from feast.value_type import ValueType

    folder = Path(given.folder)
    entities = {
        key: Entity(name=key, join_keys=[key], value_type=ValueType.STRING)
        for key in ("user_id", "item_id")
    }
    views = [
        FeatureView(
            name=name,
            entities=[entities[key] for key in keys],
            source=FileSource(
                name=f"{name}_source",
                path=str(folder / f"{name}.parquet"),
                timestamp_field="event_timestamp",
            ),
            schema=[Field(name=key, dtype=String) for key in keys]
            + [Field(name=f"f{j}", dtype=Float64 if j % 2 else Int64) for j in range(FEATURES)],
        )
        for name, keys in VIEWS.items()
    ]
    socket = Settings().redis / "redis.sock"
    online = (
        {"type": "nextbuy.stores.online.NextbuyOnlineStore", "packed": given.layout == "packed"}
        if ours
        else {"type": "redis", "connection_string": f"localhost:0,unix_socket_path={socket}"}
    )
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=f"{folder}/{ours}.db",
            repo_path=folder,
            offline_store={"type": "nextbuy.stores.offline.NextbuyOfflineStore"},
            online_store=online,
            batch_engine={"type": "nextbuy.stores.compute_engine.NextbuyEngine"},
            entity_key_serialization_version=3,
        )
    )
    store.apply([*entities.values(), *views, FeatureService(name="all", features=views)])
    return store


def requests(given: argparse.Namespace) -> list[dict[str, list[str]]]:
    """Each for one user and 50 items; a quarter of the pairs is known."""
    rng = np.random.default_rng(0)
    return [
        {
            "user_id": [f"user-{rng.integers(USERS)}"],
            "item_id": [f"item-{i}" for i in rng.choice(ITEMS, ROWS, replace=False)],
        }
        for _ in range(given.repeats)
    ]


def timed(work: Callable[[Any], Any], requests: list[Any]) -> dict[str, Any]:
    for request in requests[: len(requests) // 10]:
        work(request)
    measured = []
    for request in requests:
        started = time.perf_counter()
        work(request)
        measured.append((time.perf_counter() - started) * 1000)
    return {"measured": measured, "p99": float(np.percentile(measured, 99))}


def prepare(given: argparse.Namespace) -> dict[str, Any]:
    store = open_store(given, ours=True)
    started = time.perf_counter()
    store.materialize(datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
    return {"measured": [time.perf_counter() - started]}


def ours(given: argparse.Namespace) -> dict[str, Any]:
    """From the request to the float32 block of shape (50, 33)."""
    from nextbuy.stores.online.reader import OnlineReader

    reader = OnlineReader(open_store(given, ours=True), "all")
    return timed(lambda request: reader.read(request).matrix(), requests(given))


def feast(given: argparse.Namespace, with_ours: bool) -> dict[str, Any]:
    """Feast's `get_online_features`, called with columns, which is its faster way."""
    store = open_store(given, with_ours)
    service = store.get_feature_service("all")
    spread = [
        {"user_id": request["user_id"] * ROWS, "item_id": request["item_id"]}
        for request in requests(given)
    ]

    def read(request: dict[str, list[str]]) -> Any:
        return store.get_online_features(service, request, full_feature_names=True)

    return timed(read, spread)


def bare(given: argparse.Namespace) -> dict[str, Any]:
    """The floor: the same commands, made beforehand; the replies parsed and left as they are."""
    from nextbuy.stores.online.reader import OnlineReader

    store = open_store(given, ours=True)
    reader = OnlineReader(store, "all")
    packed = [reader.request(request) for request in requests(given)]
    return timed(reader.send, packed)


CONTENDERS: dict[str, report.Contender] = {
    "prepare": prepare,
    "ours": ours,
    "get_online_features, ours": lambda given: feast(given, with_ours=True),
    "stock Feast": lambda given: feast(given, with_ours=False),
    "floor": bare,
}


def main(small: bool) -> None:
    repeats = 100 if small else 1_000
    work = f"1 user + {ROWS} items + {ROWS} pairs, {3 * FEATURES} features"
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NEXTBUY_DATA"] = f"{folder}/d"
        os.environ.pop("REDIS_URL", None)
        make(Path(folder))
        with running_redis(Settings()):
            for name, layout in (("online", "packed"), ("online_hashes", "hashes")):
                print(f"{name}: {work}", flush=True)
                results = {
                    contender: report.measure(
                        "benchmarks.online",
                        contender,
                        folder=folder,
                        layout=layout,
                        repeats=repeats,
                    )
                    for contender in CONTENDERS
                }
                results.pop("prepare")
                floor, mine = results.pop("floor"), results.pop("ours")
                report.write(
                    name,
                    work=f"{work}, {layout}",
                    unit="ms",
                    better="lower",
                    ours=mine.median,
                    peers={peer: result.median for peer, result in results.items()},
                    floor=floor.median,
                    peak_memory_gb={
                        "ours": mine.peak_memory_gb,
                        **{peer: result.peak_memory_gb for peer, result in results.items()},
                    },
                    p99={
                        "ours": mine.values["p99"],
                        **{peer: result.values["p99"] for peer, result in results.items()},
                        "floor": floor.values["p99"],
                    },
                    small=small,
                )


if __name__ == "__main__":
    given = report.arguments(folder="", layout="packed", repeats=1)
    if given.contender:
        report.run_contender(CONTENDERS, given)
    else:
        main(given.small)
