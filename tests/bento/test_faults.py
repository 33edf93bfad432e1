"""Redis slow, dead, empty and back: no wrong answer, and nothing to do by hand."""

import os
import signal
import subprocess
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
import redis
from feast import FeatureStore

from bento.serve import running
from nextbuy.network import free_port
from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import find_redis_server
from tests.bento.small_shop import contract, fitted, objects, rows
from tests.shop import register

SEEN = {"user_id": "u1", "item_ids": ["i003", "i008"]}
UNSEEN = {"user_id": "u1", "item_ids": ["i060", "i061"]}


class Server:
    """A redis-server of the test's own, on a fixed port."""

    def __init__(self, folder):
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            [
                find_redis_server(),
                *("--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", self.folder, "--save", ""),
            ],
            stdout=subprocess.DEVNULL,
        )
        until(self.answers)

    def answers(self):
        try:
            return redis.Redis.from_url(self.url).ping()
        except redis.RedisError:
            return False

    def signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        self.process.kill()
        self.process.wait()

    @contextmanager
    def stopped(self):
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def status(url, path="/readyz"):
    return httpx.get(f"{url}{path}", timeout=60).status_code


@pytest.fixture(scope="module")
def server(settings, tmp_path_factory):
    found = Server(tmp_path_factory.mktemp("redis"))
    found.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_URL", found.url)
        store = FeatureStore(repo_path=str(settings.feature_repo))
        store.apply(objects())
        for view, frame in rows().items():
            store.write_to_online_store(view, frame)
        redis.Redis.from_url(found.url).save()
        register(settings, fitted("xgboost"), contract())
        yield found
    found.kill()


@pytest.fixture(scope="module")
def url(server):
    with running(Settings()) as base:
        yield base


@pytest.fixture
def post(url, server):
    until(lambda: status(url) == 200)
    with httpx.Client(base_url=url, timeout=60) as client:
        yield lambda body: client.post("/predict", json=body)


def scores(response):
    assert response.status_code == 200, response.text
    answer = response.json()
    return answer["degraded"], {i["item_id"]: i["probability"] for i in answer["items"]}


def test_slow_redis_is_answered_from_item_defaults_and_marked(url, server, post):
    whole = post(SEEN).json()
    assert {item["state"] for item in whole["items"]} == {"open"}
    with server.stopped():
        answer = post(SEEN).json()
        assert answer["degraded"]
        assert {item["state"] for item in answer["items"]} == {"unknown"}
        assert answer["features_at"] == {"user": None, "session": None}
        for item in answer["items"]:
            assert item["features_at"] == {"item": whole["features_at"]["user"], "user_item": None}
        assert scores(post(SEEN))[1] != {i["item_id"]: i["probability"] for i in whole["items"]}
        unseen = post(UNSEEN).json()
        assert unseen["degraded"]
        assert all(item["cold_start"] for item in unseen["items"])
        assert post({"user_id": "u1"}).json()["items"] == []
        assert status(url) == 503
        assert status(url, "/livez") == 200
    until(lambda: status(url) == 200)
    assert scores(post(SEEN))[1] == {i["item_id"]: i["probability"] for i in whole["items"]}


def test_redis_killed_and_brought_back_under_load_gives_no_wrong_answer(url, server, post):
    bodies = [
        {"user_id": f"u{n}", "item_ids": [f"i{n:03d}", "i008"], "untouched": True} for n in range(4)
    ]
    right = {}
    for number, body in enumerate(bodies):
        right[number, False] = scores(post(body))[1]
    with server.stopped():
        for number, body in enumerate(bodies):
            right[number, True] = scores(post(body))[1]
    until(lambda: status(url) == 200)

    done, wrong, seen = threading.Event(), [], {False: 0, True: 0}

    def client(number):
        with httpx.Client(base_url=url, timeout=60) as connection:
            while not done.is_set():
                degraded, given = scores(connection.post("/predict", json=bodies[number]))
                seen[degraded] += 1
                if given != right[number, degraded]:
                    wrong.append((number, degraded, given))

    threads = [threading.Thread(target=client, args=(n,)) for n in range(len(bodies))]
    for thread in threads:
        thread.start()
    try:
        for _ in range(2):
            with server.stopped():
                until(lambda: status(url) == 503)
            until(lambda: status(url) == 200)
            server.kill()
            until(lambda: status(url) == 503)
            server.start()
            until(lambda: status(url) == 200)
        after = seen[False]
        until(lambda: seen[False] > after)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong
    assert seen[True]


def test_redis_that_comes_back_empty_is_not_back(url, server, post):
    server.kill()
    dump = server.folder / "dump.rdb"
    kept = dump.rename(dump.with_suffix(".kept"))
    server.start()  # before any request notices
    try:
        assert post(SEEN).json()["degraded"]
        assert status(url) == 503
    finally:
        server.kill()
        kept.rename(dump)
        server.start()
    until(lambda: status(url) == 200)
    assert not post(SEEN).json()["degraded"]


def test_service_can_refuse_instead(server, monkeypatch):
    monkeypatch.setenv("NEXTBUY_SERVICE_WITHOUT_REDIS", "refuse")
    with running(Settings()) as url:
        assert httpx.post(f"{url}/predict", json=SEEN, timeout=60).status_code == 200
        with server.stopped():
            response = httpx.post(f"{url}/predict", json=SEEN, timeout=60)
            assert response.status_code == 503
            assert response.json() == {"error": "The feature store does not answer."}
        until(lambda: status(url) == 200)
        assert httpx.post(f"{url}/predict", json=SEEN, timeout=60).status_code == 200
