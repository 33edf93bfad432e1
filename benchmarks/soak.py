"""Ten minutes at 80 % of what the service can do: is its memory flat, does nothing fail?

    python -m benchmarks.soak [--minutes 10]

Takes the data folder as it is after `nextbuy demo`. Finds the throughput of eight clients, then
asks at four fifths of it, and reads the workers' memory as it goes. The second half of the run may
not hold more than the first by over `ALLOWED`; exits 1 if it does, or if a request fails.
"""

import argparse
import http.client
import json
import sys
import threading
import time
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from benchmarks.predict import bodies, load, percentiles
from bento.reload import worker_states
from bento.serve import deployment_file, running
from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import running_redis

CLIENTS = 8
SHARE = 0.8
ALLOWED = 1.02


def memory_mb(settings: Settings, url: str) -> float:
    """What all workers hold now, in megabytes of resident memory."""
    held = 0
    for pid, _ in worker_states(deployment_file(settings, urlsplit(url).port or 0)):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        held += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
    return held / 1000


def client(url: str, sent: list[bytes], every: float, until: float, took: list[float],
           failed: list[str]) -> None:  # fmt: skip
    """Ask once every `every` seconds, however long an answer takes."""
    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    due = time.perf_counter()
    number = 0
    while due < until:
        time.sleep(max(0.0, due - time.perf_counter()))
        started = time.perf_counter()
        try:
            connection.request("POST", "/predict", sent[number % len(sent)],
                               {"Content-Type": "application/json"})  # fmt: skip
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                failed.append(str(response.status))
        except OSError as error:
            failed.append(repr(error))
            connection.close()
        took.append((time.perf_counter() - started) * 1000)
        due = max(due + every, time.perf_counter() - every)
        number += 1


def main(minutes: float) -> int:
    settings = Settings()
    sent = [json.dumps(body).encode() for body in bodies(settings, 2_000)]
    with running_redis(settings), running(settings, workers=2, at="newest") as url:
        load(url, sent[:400], CLIENTS)
        most = load(url, sent, CLIENTS)["requests_per_second"]
        print(f"  {most:.0f} requests a second at most; {SHARE:.0%} of it for {minutes:g} minutes")
        every, until = CLIENTS / (most * SHARE), time.perf_counter() + minutes * 60
        took: list[float] = []
        failed: list[str] = []
        threads = [
            threading.Thread(
                target=client, args=(url, sent[n::CLIENTS], every, until, took, failed)
            )
            for n in range(CLIENTS)
        ]
        for thread in threads:
            thread.start()
        held: list[float] = []
        while any(thread.is_alive() for thread in threads):
            held.append(memory_mb(settings, url))
            if len(held) % 12 == 1:
                print(f"  {held[-1]:.0f} MB after {len(took):,} requests", flush=True)
            time.sleep(5)
        for thread in threads:
            thread.join()
    settled = held[len(held) // 10 :]  # the first files and pages of the log come and stay
    first, second = settled[: len(settled) // 2], settled[len(settled) // 2 :]
    growth = median(second) / median(first)
    print(
        f"  {len(took):,} requests, {len(failed)} failed, {percentiles(took)} ms; memory "
        f"{median(first):.0f} MB in the first half, {median(second):.0f} MB in the second "
        f"({growth - 1:+.1%})"
    )
    return int(bool(failed) or growth > ALLOWED)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10)
    sys.exit(main(parser.parse_args().minutes))
