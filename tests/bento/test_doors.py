"""Who gets in at the service's doors, tried from a real browser and over real sockets."""

import http.server
import threading
from contextlib import contextmanager

import httpx
import pytest

from bento.serve import running
from nextbuy.live.event_store import LiveStore
from tests.bento.small_shop import contract, fitted
from tests.monitoring.browser import chromium, missing
from tests.shop import register

IN_A_BROWSER = pytest.mark.skipif(missing() is not None, reason=str(missing()))
API_KEY, EVENT_KEY = "a-key-of-the-shop-1", "a-key-for-events-1"
EVENT = {
    "event_id": "e1",
    "user_id": "u1",
    "item_id": "i001",
    "event_time": "2024-05-01T12:00:00Z",
    "event_type": "purchase",
}
POST = """
const [url, event, type, mode, key, done] = arguments;
const headers = key ? {"x-api-key": key} : {};
const body = type ? new Blob([JSON.stringify(event)], {type}) : new Blob([JSON.stringify(event)]);
fetch(url, {method: "POST", mode, headers, body})
  .then(answer => done(answer.type === "opaque" ? "opaque" : String(answer.status)))
  .catch(error => done("refused by the browser"));
"""
READ = """
const [url, body, done] = arguments;
const sent = body && {method: "POST", headers: {"content-type": "application/json"}, body};
fetch(url, sent || {}).then(async answer => done([answer.status, await answer.text()]));
"""


@pytest.fixture(scope="module")
def model(settings, store):
    register(settings, fitted("xgboost"), contract())


@contextmanager
def strange_page():
    """The address of a page that somebody else serves."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>a page</title>")

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def kept(settings):
    """Ids of the live events that were stored."""
    with LiveStore(settings) as store:
        return {row[0] for row in store.sql.execute("SELECT event_id FROM events")}


@IN_A_BROWSER
def test_a_page_of_another_origin_writes_no_event(settings, model):
    with running(settings) as url, strange_page() as page, chromium() as driver:
        driver.get(page)
        for number, (kind, mode) in enumerate(
            [
                (None, "no-cors"),  # Chromium sends such a body without a content type
                ("text/plain", "no-cors"),
                ("application/x-www-form-urlencoded", "no-cors"),
                ("application/json", "no-cors"),
                ("application/json", "cors"),
            ]
        ):
            event = {**EVENT, "event_id": f"strange-{number}"}
            said = driver.execute_async_script(POST, f"{url}/events", event, kind, mode, None)
            assert said in ("opaque", "refused by the browser")
        assert not kept(settings)
        # The API page is of the service's own origin.
        driver.get(url)
        own = {**EVENT, "event_id": "own"}
        sent = (POST, f"{url}/events", own, "application/json", "cors", None)
        assert driver.execute_async_script(*sent) == "200"
    assert kept(settings) == {"own"}


@IN_A_BROWSER
def test_a_name_that_an_attacker_lets_point_here_reads_nothing(settings, model):
    there = "--host-resolver-rules=MAP evil.example 127.0.0.1"
    with running(settings) as url, chromium(more=[there]) as driver:
        evil = url.replace("127.0.0.1", "evil.example")
        driver.get(f"{evil}/livez")
        for path, body in [("/predict", '{"user_id": "u1"}'), ("/model", None), ("/metrics", None)]:
            status, text = driver.execute_async_script(READ, evil + path, body)
            assert status == 403
            assert "answers as localhost" in text
        driver.get(f"{url}/livez")
        status, text = driver.execute_async_script(READ, f"{url}/predict", '{"user_id": "u1"}')
        assert status == 200
        assert "probability" in text


@IN_A_BROWSER
def test_a_shop_s_own_pages_post_events_and_nothing_else(settings, model, monkeypatch):
    with strange_page() as shop, strange_page() as strange, chromium() as driver:
        monkeypatch.setenv("NEXTBUY_SERVICE_API_KEYS", API_KEY)
        monkeypatch.setenv("NEXTBUY_SERVICE_EVENT_KEYS", EVENT_KEY)
        monkeypatch.setenv("NEXTBUY_SERVICE_CORS_ORIGINS", shop)
        with running(settings) as url:

            def post(page, event_id, key, path="/events"):
                driver.get(page)
                event = {**EVENT, "event_id": event_id}
                sent = (url + path, event, "application/json", "cors", key)
                return driver.execute_async_script(POST, *sent)

            assert post(shop, "shop-1", EVENT_KEY) == "200"
            assert post(shop, "shop-2", "not-a-key-of-ours") == "401"
            assert post(shop, "shop-3", API_KEY, "/predict") == "refused by the browser"
            assert post(strange, "strange-1", EVENT_KEY) == "refused by the browser"
    assert kept(settings) & {"shop-1", "shop-2", "shop-3", "strange-1"} == {"shop-1"}


@IN_A_BROWSER
def test_the_api_page_is_ours_and_loads_nothing_from_elsewhere(settings, model):
    with running(settings) as url, chromium() as driver:
        driver.get(f"{url}/docs")
        page = ""
        for _ in range(100):
            page = driver.find_element("tag name", "body").text
            if "/predict_batch" in page:
                break
            driver.implicitly_wait(0.1)
        assert driver.current_url == f"{url}/"
        assert "Will this shopper buy this item" in page
        assert "Authorize" in page
        for theirs in ("BentoML", "Slack", "None"):
            assert theirs not in page
        addresses = driver.execute_script(
            "return [...performance.getEntriesByType('resource').map(entry => entry.name),"
            "...[...document.querySelectorAll('a[href]')].map(link => link.href),"
            "...[...document.images].map(image => image.src)]"
        )
        assert [a for a in addresses if "swagger-ui-bundle" in a]
        assert not [a for a in addresses if not a.startswith((url, "data:"))]


def test_an_address_that_a_header_names_is_believed_from_a_named_proxy_alone(
    settings, model, monkeypatch
):
    monkeypatch.setenv("NEXTBUY_SERVICE_API_KEYS", API_KEY)
    monkeypatch.setenv("NEXTBUY_SERVICE_EVENT_KEYS", EVENT_KEY)
    monkeypatch.setenv("NEXTBUY_SERVICE_RATE_LIMIT", "0.001")

    def answers(url):
        sent = [
            httpx.post(
                f"{url}/events",
                json={**EVENT, "event_id": f"p{number}"},
                headers={"x-api-key": EVENT_KEY, "x-forwarded-for": f"8.8.8.{number}"},
            )
            for number in range(3)
        ]
        return [answer.status_code for answer in sent]

    with running(settings) as url:
        assert answers(url) == [200, 429, 429]
    monkeypatch.setenv("NEXTBUY_SERVICE_TRUSTED_PROXIES", "127.0.0.1")
    with running(settings) as url:
        assert answers(url) == [200, 200, 200]


def test_a_post_needs_its_content_type(settings, model):
    with running(settings) as url:
        for path in ("/predict", "/predict_batch", "/events"):
            content = b'{"user_id": "u1"}'
            for kinds in (
                [],
                [b"text/plain"],
                [b"application/vnd.bentoml+pickle", b"application/json"],
                [b"application/json", b"text/plain"],
            ):
                headers = [(b"content-type", kind) for kind in kinds]
                request = httpx.Request("POST", url + path, headers=headers, content=content)
                with httpx.Client() as client:
                    answer = client.send(request)
                assert answer.status_code == 415
                assert "application/json" in answer.json()["error"]


def test_a_mistake_is_explained_in_one_sentence_of_ours(settings, model):
    bodies = {
        b"{": "not valid JSON",
        b"[" * 100_000: "not valid JSON",
        b'{"user_id": "u1", "context": {"i001": {"price": NaN}}, "item_ids": ["i001"]}': "",
        b'{"user_id": "\xff"}': "not valid JSON",
        b'{"user_id": "\\ud800"}': "not valid JSON",
        b'{"user_id": 7}': "user_id",
        b'{"user_id": "u1", "reasons": ' + b"9" * 5000 + b"}": "out of range",
        b'{"user_id": "u1", "item_ids": [' + b"1," * 400 + b"1]}": "item_ids.0",
        b'{"user_id": "u1", "' + b"x" * 100_000 + b'": 1}': "xxx",
        b"null": "",
    }
    with running(settings) as url:
        for body, says in bodies.items():
            for path in ("/predict", "/events"):
                answer = httpx.post(
                    url + path, content=body, headers={"content-type": "application/json"}
                )
                assert answer.status_code == 400, (path, body[:80], answer.text[:200])
                error = answer.json()["error"]
                assert "pydantic" not in answer.text
                assert "validation error" not in error
                assert len(answer.content) < 5000
                if path == "/predict":
                    assert says.lower() in error.lower()
