"""`POST /predict` over HTTP: ours, the ordinary way, and the floor of what the work costs.

    python -m benchmarks.predict [--small]

Takes the data folder as it is after `nextbuy demo`: real features in Redis, the real champion. The
floor is the sum of the bare parts, each alone: the Redis commands of a request with their replies
left unread, the booster on a ready matrix, and an empty round trip (`/livez`) of the same server.
The load comes from this machine too.
"""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import bentoml
import numpy as np
from feast import FeatureStore

from benchmarks import report
from bento.export import export_champion
from bento.model import Model
from bento.reader import OnlineFeatures
from bento.reload import worker_states
from bento.serve import _await_ready, _stop, deployment_file, running
from nextbuy.connection import duckdb_connection
from nextbuy.network import free_port
from nextbuy.settings import PROJECT, Settings
from nextbuy.stores.online.reader import OnlineReader
from nextbuy.stores.online.redis_server import running_redis
from nextbuy.versioned_table import files

ITEMS = 50


def bodies(settings: Settings, count: int) -> list[dict[str, Any]]:
    """Requests of real shoppers for 50 real items."""
    random = np.random.default_rng(0)

    def ids(view: str, key: str) -> list[str]:
        found = connection.execute(
            f"SELECT DISTINCT {key} FROM read_parquet(?) ORDER BY 1",
            [files(settings.features / view)],
        )
        return [each for (each,) in found.fetchall()]

    with duckdb_connection(settings) as connection:
        users, items = ids("recent_items", "user_id"), ids("item", "item_id")
    return [
        {
            "user_id": str(random.choice(users)),
            "item_ids": random.choice(items, ITEMS, replace=False).tolist(),
            "untouched": True,
        }
        for _ in range(count)
    ]


def ask(url: str, sent: list[bytes], path: str, method: str = "POST") -> list[float]:
    """Milliseconds of each request of one client on one connection; raises on any other status."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    took = []
    for body in sent:
        started = time.perf_counter()
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        took.append((time.perf_counter() - started) * 1000)
        if response.status != 200:
            raise RuntimeError(f"{path} answered {response.status}")
    return took


def load(url: str, sent: list[bytes], clients: int) -> dict[str, float]:
    """Percentiles, throughput and errors of several clients at once."""
    took: list[float] = []
    errors: list[Exception] = []

    def client(share: list[bytes]) -> None:
        try:
            took.extend(ask(url, share, "/predict"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=client, args=(sent[n::clients],)) for n in range(clients)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - started
    return {
        **percentiles(took),
        "requests_per_second": round(len(took) / seconds, 1),
        "errors": len(errors),
    }


def percentiles(took: list[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(took, p)), 3) for p in (50, 95, 99)}


def timed(work: Callable[[Any], Any], asked: list[Any]) -> float:
    """Median milliseconds."""
    took = []
    for each in asked:
        started = time.perf_counter()
        work(each)
        took.append((time.perf_counter() - started) * 1000)
    return float(np.median(took))


def bare_parts(settings: Settings, tag: str, asked: list[dict[str, Any]]) -> dict[str, float]:
    """Median milliseconds of the Redis commands and of the booster, each alone."""
    model = Model(tag, Path(bentoml.models.get(tag).path))
    store = FeatureStore(repo_path=str(settings.feature_repo))
    features = OnlineFeatures(settings, model.contract)
    reader = OnlineReader(store, model.contract.feature_service)
    columns = [{"user_id": [b["user_id"]], "item_id": b["item_ids"]} for b in asked]
    made = [reader.request(each) for each in columns]
    blocks = [features.read(each["user_id"], each["item_id"]).matrix for each in columns]

    redis = timed(reader.send, made)
    return {"redis": redis, "model": timed(model.booster.predict, blocks)}


@contextmanager
def stock(settings: Settings, tag: str, workers: int) -> Iterator[str]:
    """The ordinary service, ready."""
    port = free_port()
    log = settings.data / "logs" / "stock.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "bentoml", "serve", "benchmarks.stock_service:Stock"),
                *("--host", "127.0.0.1", "--port", str(port), "--working-dir", str(PROJECT)),
            ],
            cwd=PROJECT,
            env={**os.environ, "STOCK_MODEL": tag, "STOCK_WORKERS": str(workers)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _await_ready(server, url, log)
            yield url
        finally:
            _stop(server)


def peak_memory_gb(settings: Settings, url: str) -> float:
    """The most memory that one of our workers held."""
    workers = worker_states(deployment_file(settings, urlsplit(url).port or 0))
    lines = [Path(f"/proc/{pid}/status").read_text().splitlines() for pid, _ in workers]
    held = [int(line.split()[1]) for each in lines for line in each if line.startswith("VmHWM")]
    return round(max(held, default=0) / 1e6, 3)


def main(small: bool) -> None:
    settings = Settings()
    count = 200 if small else 2_000
    tag = export_champion(settings)
    asked = bodies(settings, count)
    sent = [json.dumps(body).encode() for body in asked]
    warm = sent[: count // 10]
    with running_redis(settings):
        parts = bare_parts(settings, tag, asked)
        started = time.perf_counter()
        with running(settings, at="newest") as url:
            ready = time.perf_counter() - started
            ask(url, warm, "/predict")
            parts["http"] = float(np.median(ask(url, [b""] * count, "/livez", "GET")))
            one = percentiles(ask(url, sent, "/predict"))
        print(f"  start to ready {ready:.1f} s; one client {one}; parts {parts}", flush=True)
        with running(settings, workers=2, at="newest") as url:
            load(url, warm, 8)
            eight, many = load(url, sent, 8), load(url, sent, 32)
            memory = peak_memory_gb(settings, url)
        print(f"  8 clients {eight}\n  32 clients {many}", flush=True)
        for body in asked:
            del body["untouched"]  # the stock service knows no such option
        few = [json.dumps(body).encode() for body in asked[: count // 4]]
        warm = few[: count // 10]
        with stock(settings, tag, 1) as url:
            ask(url, warm, "/predict")
            stock_one = percentiles(ask(url, few, "/predict"))
        with stock(settings, tag, 2) as url:
            load(url, warm, 8)
            stock_many = load(url, few, 32)
    print(f"  stock: one client {stock_one}\n  32 clients {stock_many}", flush=True)
    floor = sum(parts.values())
    print(
        f"  p50 / floor {one['p50'] / floor:.2f} (goal 2.5); 8 clients p99 / p50 "
        f"{eight['p99'] / eight['p50']:.2f} (goal 3); 32 clients "
        f"{many['requests_per_second'] / stock_many['requests_per_second']:.2f}x stock (goal 3), "
        f"{many['errors']} errors",
        flush=True,
    )
    report.write(
        "predict",
        work=f"POST /predict, {ITEMS} items, one client",
        unit="ms",
        better="lower",
        ours=one["p50"],
        peers={"get_online_features + pandas": stock_one["p50"]},
        floor=floor,
        peak_memory_gb={"ours, one worker": memory},
        small=small,
        model=tag,
        parts=parts,
        one_client=one,
        eight_clients=eight,
        clients_32=many,
        stock_one_client=stock_one,
        stock_clients_32=stock_many,
        start_to_ready_seconds=round(ready, 2),
    )


if __name__ == "__main__":
    main(report.arguments().small)
