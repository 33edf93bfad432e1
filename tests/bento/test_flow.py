"""Which of our files a request passes, in order: few enough to read in one go.

The service runs in this process, as BentoML assembles it; the live worker's part of an event is
one step of the worker.
"""

import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from nextbuy.settings import PROJECT
from nextbuy.stores.online.redis_server import running_redis
from tests.bento import live_shop
from tests.bento.test_live import view
from tests.shop import environment

MAX_PREDICT = 12
MAX_EVENTS = 14
"""For the request and the live worker's step together."""


@contextmanager
def passed_files():
    """Our files whose code runs inside the block, in the order of their first call.

    Threads count that were started inside `traced_threads`, and the one that called it.
    """
    files = []
    _record.append(files)
    try:
        yield files
    finally:
        _record.remove(files)


_record = []


def _trace(frame, event, _):
    if event == "call" and _record:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(PROJECT) and not path.is_relative_to(PROJECT / ".venv"):
            name = str(path.relative_to(PROJECT))
            if not name.startswith("tests/") and name not in _record[-1]:
                _record[-1].append(name)


@contextmanager
def traced_threads():
    threading.setprofile(_trace)
    sys.setprofile(_trace)
    try:
        yield
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    variables = {
        "NEXTBUY_SERVICE_TIME_BUDGET_MS": "5000",
        "NEXTBUY_SERVICE_LOG_SECONDS": "3600",  # the log's thread sleeps while files are recorded
    }
    with environment(tmp_path_factory.mktemp("flow"), **variables) as settings:
        live_shop.build(settings, shoppers=40, days=45)
        live_shop.with_model(settings)
        with running_redis(settings):
            yield settings


@pytest.fixture(scope="module")
def client(shop):
    from bento.export import export_champion

    export_champion(shop)
    from bento.service import Nextbuy

    with (
        traced_threads(),
        TestClient(
            Nextbuy.to_asgi(), client=("127.0.0.1", 1), base_url="http://localhost"
        ) as started,
    ):
        yield started


def test_a_prediction_passes_few_files(client):
    body = {"user_id": "u000001", "item_ids": ["i00001", "i00002"]}
    assert client.post("/predict", json=body).status_code == 200
    with passed_files() as files:
        assert client.post("/predict", json=body).status_code == 200
    print("\n/predict", *files, sep="\n  ")
    assert len(files) <= MAX_PREDICT, files


def test_an_event_passes_few_files(shop, client):
    from bento.routes import routes
    from nextbuy.live.worker import Worker

    def send(number):
        event = view(f"f{number}", f"u{number}", "i00001", "2024-02-14T22:00:00Z")
        response = client.post("/events", json=event)
        assert response.status_code == 200, response.text

    send(1)
    routes.state.runtime.event_writer.supervisor.close()  # the worker's part comes in this process
    worker = Worker(shop)
    worker.step()
    with passed_files() as request:
        send(2)
    with passed_files() as step:
        assert worker.step() == 1
    print("\n/events", *request, "live worker", *step, sep="\n  ")
    assert len({*request, *step}) <= MAX_EVENTS, (request, step)
