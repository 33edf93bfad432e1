"""Every shell command of the pages, run in page order in a small shop.

What differs from the page, and no more: free ports instead of the usual ones, small sizes instead
of large ones, a service or Redis started where a page assumes one, and files of the names that the
pages use.
"""

import re
import socket
import subprocess
import time
from contextlib import suppress

import duckdb
import httpx
import pytest

from nextbuy.network import free_port
from nextbuy.stores.online.redis_server import find_redis_server
from tests.docs.pages import PAGES, commands, elsewhere
from tests.processes import end_group

SMALLER = {
    r"(nextbuy simulate --offer-share 0.5)$": r"\1 --shoppers 400 --days 160",
    r"--trials 30": "--trials 2",
    r"--origins 3": "--origins 2",
    r"--speed 600": "--speed 1000000",
    r"'logs/2024-07-01.csv.gz' --source rees46": "tomorrow.parquet --source simulated",
}
SERVERS = {
    r"nextbuy serve": ("--port {}", "/readyz"),
    r"bentoml serve": ("--host 127.0.0.1 --port {}", "/readyz"),
    r"nextbuy dashboard": ("--port {}", "/_stcore/health"),
    r"streamlit run": ("--server.port {}", "/_stcore/health"),
    r"mlflow ui": ("--port {}", "/health"),
    r"feast .* ui": ("--port {}", "/"),
}
"""Command -> how it takes a port, and what answers when it is ready."""
ASKS_THE_SERVICE = {r"nextbuy reload": "--port {}", r"nextbuy replay": "--url http://127.0.0.1:{}"}
MAY_FAIL = {
    r"nextbuy (monitor|daily)": "ALERT",
    r"nextbuy promote": "is not promoted",
    r"nextbuy rollback": "replaced no other",
}
"""Exit code 1 is an answer, when it comes with these words."""
PATIENCE = 600


AS_REES46 = """
    SELECT strftime(timezone('UTC', event_time), '%Y-%m-%d %H:%M:%S UTC') AS event_time,
        replace(event_type, 'add_to_cart', 'cart') AS event_type, item_id[2:]::INT AS product_id,
        category AS category_id, '' AS category_code, brand, price / 100 AS price,
        541312098 + user_id[2:]::INT AS user_id, source_session_id AS user_session
    FROM read_parquet({}) WHERE event_type IN ('view', 'add_to_cart', 'purchase')
        AND regexp_full_match(user_id, 'u[0-9]+')"""
"""The simulated shop's events in the columns of REES46; the shopper u000042 is 541312140."""


@pytest.fixture(scope="session")
def street(shop):
    """The shop with the files that the pages speak of, and the memory of what has run."""
    folder, env = shop
    *before, today = sorted(
        map(str, (folder / "data" / "demo" / "raw" / "simulated").glob("*.parquet"))
    )
    (folder / "logs").mkdir()
    for query, file in (
        (AS_REES46.format(before), "logs/until-yesterday.csv.gz"),
        (AS_REES46.format([today]), "today.csv.gz"),
        (
            "SELECT * REPLACE (event_id || '-next' AS event_id, event_time + INTERVAL 1 DAY AS "
            f"event_time) FROM '{today}'",
            "tomorrow.parquet",
        ),
    ):
        duckdb.execute(f"COPY ({query}) TO '{folder}/{file}'")
    return folder, env, set()


class Page:
    """A terminal in which one page is worked through."""

    def __init__(self, folder, env, log):
        self.folder, self.env, self.log = folder, dict(env), log
        self.running, self.port = [], None
        self.answering = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            end_group(process)

    def work(self, command):
        """One command, as it stands on the page but for the liberties."""
        for pattern, less in SMALLER.items():
            command = re.sub(pattern, less, command)
        server = next((how for what, how in SERVERS.items() if re.match(what, command)), None)
        if server:
            self.serve(command, *server)
            return
        for pattern, how in ASKS_THE_SERVICE.items():
            if re.match(pattern, command):
                command += " " + how.format(self.service())
        if "127.0.0.1:3000" in command:
            command = command.replace("127.0.0.1:3000", f"127.0.0.1:{self.service()}")
        if "127.0.0.1:6379" in command:
            command = command.replace("127.0.0.1:6379", f"127.0.0.1:{self.redis()}")
        if command.startswith(("export ", "source ")):
            said = self.bash(f"{command} && env -0").stdout
            self.env = dict(line.split("=", 1) for line in said.split("\0") if "=" in line)
            return
        done = self.bash(command)
        said = done.stdout + done.stderr
        words = next((w for what, w in MAY_FAIL.items() if re.search(what, command)), None)
        assert done.returncode == 0 or (
            words and done.returncode == 1 and re.search(words, said)
        ), f"$ {command}\n{said[-6000:]}"
        assert "Traceback" not in said, f"$ {command}\n{said[-6000:]}"

    def bash(self, command):
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", command], cwd=self.folder, env=self.env, check=False,
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def serve(self, command, option, path):
        """Start it, wait until it answers; a service stays, the others have been seen."""
        if path == "/readyz" and self.answering:  # the page starts another one: the former is over
            end_group(self.answering)
        port = free_port()
        process = self.start(f"exec {command} {option.format(port)}")
        until = time.monotonic() + PATIENCE
        while True:
            with suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}{path}").status_code == 200:
                    break
            said = self.log.read_text()[-4000:]
            assert process.poll() is None, f"$ {command}\n{said}"
            assert time.monotonic() < until, f"$ {command}\n{said}"
            time.sleep(0.3)
        if path != "/readyz":
            end_group(process)
            return
        self.answering, self.port = process, port

    def service(self):
        """The port of the page's service; one is started where the page assumes it."""
        if self.port is None:
            self.serve("nextbuy serve", *SERVERS["nextbuy serve"])
        return self.port

    def redis(self):
        """The port of an outside Redis."""
        port = free_port()
        self.start(f"exec {find_redis_server()} --port {port} --bind 127.0.0.1 --save ''")
        until = time.monotonic() + PATIENCE
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < until
            time.sleep(0.1)
        return port

    def start(self, command):
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", command], cwd=self.folder, env=self.env, stdout=log,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        self.running.append(process)
        return process


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.name)
def test_the_commands_of_a_page_run_in_order(page, street, tmp_path):
    folder, env, done = street
    with Page(folder, env, tmp_path / "server.log") as terminal:
        for command in commands(page):
            known = (command, terminal.env["NEXTBUY_DATA"], terminal.env.get("REDIS_URL"))
            if elsewhere(command) or known in done:
                continue
            began = time.monotonic()
            terminal.work(command)
            print(f"{time.monotonic() - began:6.1f} s  {command.splitlines()[0]}")
            if not command.startswith(("export ", "source ", *SERVERS)):
                done.add(known)
