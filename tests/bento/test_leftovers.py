"""Whatever ends a verb, no process of its stays behind."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress

import httpx
import psutil
import pytest

from nextbuy.network import free_port
from nextbuy.settings import PROJECT
from tests.shop import environment

PATIENCE = 400
"""Seconds that a start may take on a busy machine."""


SET_UP = """
from feast import FeatureStore
from nextbuy.settings import Settings
from tests.bento.small_shop import contract, fitted, objects, rows
from tests.shop import register

settings = Settings()
store = FeatureStore(repo_path=str(settings.feature_repo))
store.apply(objects())
for view, frame in rows().items():
    store.write_to_online_store(view, frame)
register(settings, fitted("xgboost"), contract())
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop with a champion and values in its embedded Redis, which nobody uses."""
    with environment(tmp_path_factory.mktemp("shop")) as settings:
        # In a process of its own: one that writes to Redis keeps it running until it ends.
        subprocess.run([sys.executable, "-c", SET_UP], cwd=PROJECT, check=True)
        yield settings


def processes_of(settings):
    """Processes, but this one, whose environment or folder is the shop's."""
    left = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            is_of_shop = process.environ().get("NEXTBUY_DATA") == str(settings.data)
            is_there = process.cwd().startswith(str(settings.data))
            if process.pid != os.getpid() and (is_of_shop or is_there):
                left[process.pid] = " ".join(process.cmdline())[:100]
    return left


@pytest.fixture
def start():
    """Starts a verb; what a failing test leaves behind is ended."""
    started = []

    def verb(*arguments):
        command = [sys.executable, "-m", "nextbuy", *arguments]
        with_output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.DEVNULL, **with_output)
        started.append(process)
        return process

    yield verb
    for process in started:
        process.kill()
        process.wait()


def await_answer(url, process):
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(httpx.HTTPError):
            if httpx.get(url, timeout=5).status_code == 200:
                return
        time.sleep(0.1)
    pytest.fail(f"{url} does not answer; {process.poll()}")


def await_nobody(settings):
    deadline = time.monotonic() + 120
    while left := processes_of(settings):
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_service(shop, start, number):
    port = free_port()
    server = start("serve", "--port", str(port))
    await_answer(f"http://127.0.0.1:{port}/readyz", server)
    names = " ".join(processes_of(shop).values())
    assert "redis-server" in names or "redis_keeper" in names
    server.send_signal(number)
    server.communicate(timeout=PATIENCE)
    await_nobody(shop)


def test_server_whose_arbiter_is_killed(shop, start):
    port = free_port()
    server = start("serve", "--port", str(port))
    await_answer(f"http://127.0.0.1:{port}/readyz", server)
    arbiter = int((shop.data / "serving" / f"{port}.pid").read_text())
    os.kill(arbiter, signal.SIGKILL)
    server.communicate(timeout=PATIENCE)
    await_nobody(shop)


def test_prediction(shop, start):
    done = start("predict", "u1", "--item", "i001")
    said, _ = done.communicate(timeout=PATIENCE)
    assert re.search(rb"i001.*%", said), said
    await_nobody(shop)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_prediction_that_is_ended_in_the_middle(shop, start, number):
    asking = start("predict", "u1", "--item", "i001")
    deadline = time.monotonic() + PATIENCE
    while not any("bentoml" in line for line in processes_of(shop).values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(1)
    asking.send_signal(number)
    asking.communicate(timeout=PATIENCE)
    await_nobody(shop)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_dashboard(shop, start, number):
    port = free_port()
    dashboard = start("dashboard", "--port", str(port))
    await_answer(f"http://127.0.0.1:{port}/_stcore/health", dashboard)
    dashboard.send_signal(number)
    dashboard.communicate(timeout=PATIENCE)
    await_nobody(shop)
