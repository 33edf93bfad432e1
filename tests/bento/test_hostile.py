"""2,000 hostile or odd requests: none is answered by a 5xx, and a good shopper notices nothing.

Beside Schemathesis (test_api_page.py) and Hypothesis (test_robustness.py), which keep to HTTP: here
bytes go over bare sockets, so that what no client library would send is sent too.
"""

import itertools
import json
import random
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest

from bento.serve import running
from tests.bento import live_shop
from tests.shop import environment

REQUESTS = 2_000
POSTED = ("/predict", "/predict_batch", "/events")
PATHS = (
    *POSTED, "/", "/model", "/metrics", "/livez", "/healthz", "/readyz", "/docs", "/docs.json",
    "/openapi.json", "/schema.json", "/static_content/swagger-ui.css", "/static_content/%00",
    "/static_content/..%2f..%2fsetup.py", "/static_content/../../../etc/passwd", "/static_content/",
    "/static_content/" + "a" * 5_000, "/%00", "/%ff%fe", "/%0d%0aX: 1", "//", "/predict/",
    "/predict%00", "/events?x=%00", "/events?" + "a=1&" * 1_000, "/../model", "/é", "*",
    "http://evil.example/model", "/predict/submit", "/events/../model", "/;/model", "/PREDICT",
)  # fmt: skip
METHODS = (
    "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "FOO", "get",
)  # fmt: skip
HEADERS = (
    b"Host: 127.0.0.1",
    b"Host: evil.example",
    b"Host: [::1",
    b"Host: " + b"a" * 3_000,
    b"Host: \xff\xfe",
    b"Origin: null",
    b"Origin: http://evil.example",
    b"Origin: \x7f",
    b"Authorization: Bearer",
    b"Authorization: Basic \xff",
    b"X-Api-Key: " + b"k" * 5_000,
    b"X-Forwarded-For: " + b"1.1.1.1, " * 500,
    b"X-Forwarded-For: not an address",
    b"X-Forwarded-Proto: gopher",
    b"Content-Type: application/json; charset=utf-16",
    b"Content-Type: application/vnd.bentoml+pickle",
    b"Content-Type: multipart/form-data",
    b"Content-Type: \xff",
    b"Content-Encoding: gzip",
    b"Content-Length: -1",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: 0x10",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Expect: 100-continue",
    b"Expect: a miracle",
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x",
    b"Range: bytes=5-1",
    b"Accept: \x01",
    b"Cookie: " + b"a=b; " * 1_000,
    b"no colon",
    b": no name",
    b" folded: line",
)
EVENT = {
    "event_id": "odd",
    "user_id": "odd shopper",
    "item_id": "i00001",
    "event_time": "2024-02-29T22:00:00Z",
    "event_type": "view",
}
VALUES = (
    "null", "true", "0", "-1", "1e400", "-1e400", "1e-400", "9" * 400, "9" * 5_000, "-0.0", "NaN",
    "Infinity", '""', '"\\ud800"', '"\\u0000"', '"\\u202e\\uffff"', '"' + "x" * 300 + '"', "[]",
    "{}", "[[[[]]]]", '{"a": {"b": {}}}', '"2024-02-29"', '"99999-01-01T00:00:00Z"', '"1e400"',
    '"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:59-23:59"', "1709244000", "-62135596801",
    '"😀"', '" "', "[1, 2]", '"view"', '"login"',
)  # fmt: skip
SPOILED = (
    b"", b" ", b"{", b"}", b"[", b'"', b"nul", b"{}{}", b"[]", b"0", b"\x00", b"\xff\xfe{\x00}\x00",
    b"\xef\xbb\xbf{}", b"\x1f\x8b\x08\x00", b"\x80\x04\x95.", b"[" * 100_000, b'{"a":' * 50_000,
    b"[" * 500 + b"]" * 500, b'{"events": [' + b"[" * 400 + b"]" * 400 + b"]}",
    b'{"user_id": "u", "user_id": "v"}', b'{"events": {}, "events": []}', b"// comment\n{}",
    b"{'user_id': 'u'}", b'{"user_id": "\xff"}', b'{"' + b"k" * 50_000 + b'": 1}',
    b'{"\\ud83d": 1}', b'{"events": [' + b"{}," * 2_000 + b"{}]}", b"1" * 10_000,
    b'{"requests": [' + b'{"user_id": "u"},' * 200 + b'{"user_id": "u"}]}',
    b'{"requests": []}', b'{"requests": [[]]}', b'{"__proto__": {}}', b'{"": ""}',
)  # fmt: skip


def request(method="POST", path="/predict", body=b"", headers=(), is_typed=True, version=b"1.1"):
    """The bytes of a request."""
    named = b"\r\n".join(headers).lower()
    lines = [b"%s %s HTTP/%s" % (method.encode(), path.encode(), version)]
    lines += [b"Host: 127.0.0.1"] * (b"host:" not in named)
    lines += [b"Content-Type: application/json"] * (is_typed and b"content-type:" not in named)
    lines += [b"Content-Length: %d" % len(body)] * (
        b"content-length:" not in named and b"transfer-encoding:" not in named
    )
    return b"\r\n".join([*lines, *headers, b"Connection: close", b"", body])


def requests():
    """Every kind once, then random mixtures of them."""
    for path, method in itertools.product(PATHS, METHODS):
        yield request(method, path)
    for path, body in itertools.product(POSTED, SPOILED):
        yield request(path=path, body=body)
    for name, value in itertools.product([*EVENT, "price", "brand", "odd"], VALUES):
        others = {key: kept for key, kept in EVENT.items() if key != name}
        yield request(path="/events", body=changed(others, name, value))
    for name, value in itertools.product(("user_id", "item_ids", "context", "reasons"), VALUES):
        others = {key: kept for key, kept in {"user_id": "u"}.items() if key != name}
        yield request(path="/predict", body=changed(others, name, value))
    good = json.dumps({"user_id": "u000001"}).encode()
    for path, header in itertools.product(("/predict", "/events", "/model"), HEADERS):
        yield request("GET" if path == "/model" else "POST", path, good, [header])
    yield from (
        b"",
        b"\r\n",
        b"\x00" * 100,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x16\x03\x01",
    )
    yield b"GET /model HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 20
    yield request(version=b"1.0", body=good)
    chance = random.Random(7)
    while True:
        body = chance.choice(
            [*SPOILED, good, json.dumps({"events": [EVENT]}).encode(), chance.randbytes(200)]
        )
        if chance.random() < 0.3:
            body = body[: chance.randrange(len(body) + 1)]
        yield request(
            chance.choice(("POST", "POST", "POST", *METHODS)),
            chance.choice((*POSTED, *PATHS)),
            body,
            chance.sample(HEADERS, chance.randrange(3)),
            is_typed=chance.random() < 0.8,
        )


def changed(others, name, value):
    """JSON of an object with one member whose text is given."""
    members = [f"{json.dumps(key)}: {json.dumps(kept)}" for key, kept in others.items()]
    return ("{" + ", ".join([*members, f'"{name}": {value}']) + "}").encode()


def send(address, sent):
    """The status of the answer; None where the server closed without one, or waits for more."""
    with socket.create_connection(address, timeout=6) as connection:
        with suppress(OSError):
            connection.sendall(sent)
        answer = b""
        with suppress(OSError):
            while b"\r\n" not in answer and (part := connection.recv(4096)):
                answer += part
    return int(answer.split()[1]) if answer.startswith(b"HTTP/1") else None


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with environment(
        tmp_path_factory.mktemp("live"), NEXTBUY_SERVICE_TIME_BUDGET_MS="5000"
    ) as settings:
        live_shop.build(settings)
        live_shop.with_model(settings)
        with running(settings) as base:
            yield base


class GoodShopper:
    """Sends an event, waits until the answer knows it, and again, until `close`."""

    def __init__(self, url):
        self.url = url
        self.seconds = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._shop)

    def __enter__(self):
        self.round()  # the live worker is ready after its first event
        self.seconds.clear()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._closing.set()
        self._thread.join()

    def _shop(self):
        while not self._closing.wait(0.2):
            self.round()

    def round(self):
        number = len(self.seconds)
        at = f"2024-02-29T{20 + number // 3600}:{number // 60 % 60:02}:{number % 60:02}Z"
        event = {**EVENT, "event_id": f"good-{time.time_ns()}", "user_id": "good", "event_time": at}
        began = time.monotonic()
        answer = httpx.post(f"{self.url}/events", json=event, timeout=30)
        assert answer.status_code == 200, answer.text
        body = {"user_id": "good", "item_ids": ["i00001"]}
        while time.monotonic() - began < 60:
            answer = httpx.post(f"{self.url}/predict", json=body, timeout=30).json()
            if answer["features_at"].get("user") == at:
                break
            time.sleep(0.02)
        self.seconds.append(time.monotonic() - began)


def test_no_request_is_answered_by_an_error_of_ours_and_nobody_waits(url):
    address = (urlsplit(url).hostname, urlsplit(url).port)
    statuses, failed = Counter(), []
    with GoodShopper(url) as good:
        for sent in itertools.islice(requests(), REQUESTS):
            status = send(address, sent)
            statuses[status] += 1
            if status is not None and status >= 500:
                failed.append((status, sent[:300]))
    print(f"\n{dict(statuses)}; the good shopper waited {max(good.seconds):.2f} s at most")
    assert not failed, failed
    assert statuses[200] > 50
    assert statuses[400] > 200
    assert len(good.seconds) > 10
    assert max(good.seconds) < 2, sorted(good.seconds)[-5:]


def test_a_body_that_does_not_come_is_not_waited_for_longer_than_said(url):
    address = (urlsplit(url).hostname, urlsplit(url).port)
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(request(body=b"x" * 100)[:-50])
        began = time.monotonic()
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 408")
    assert 3 < time.monotonic() - began < 8
