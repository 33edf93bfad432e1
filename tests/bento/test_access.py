import httpx
import pytest
from pydantic import ValidationError

from bento.client import predict
from bento.middleware import MAX_CLIENTS, AccessControl
from bento.serve import running
from bento.settings import ServiceSettings
from monitoring.service_metrics import scrape
from nextbuy.errors import NextbuyError
from tests.bento.small_shop import contract, fitted
from tests.shop import register

KEYS = ("a-key-of-the-shop", "a-key-of-the-app1", "a-key-of-the-watch")
BODY = {"user_id": "u1", "item_ids": ["i001"]}


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def scope(address="127.0.0.1", **headers):
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "client": (address, 1), "headers": pairs}


def access(clock=None, **changes):
    return AccessControl(ServiceSettings(**changes), clock or Clock())


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1"])
def test_without_keys_the_own_machine_is_let_in(address):
    assert access().refusal(scope(address)) is None


@pytest.mark.parametrize("address", ["10.0.0.7", "2001:db8::1", "testclient", ""])
def test_without_keys_nobody_else_is(address):
    assert access().refusal(scope(address)).status == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"x_api_key": KEYS[0]}, None),
        ({"x_api_key": KEYS[1]}, None),
        ({"authorization": f"Bearer {KEYS[1]}"}, None),
        ({}, 401),
        ({"x_api_key": ""}, 401),
        ({"x_api_key": KEYS[0][:-1]}, 401),
        ({"x_api_key": ",".join(KEYS)}, 401),
        ({"x_api_key": "schlüssel-ohne-wert"}, 401),
        ({"authorization": f"Basic {KEYS[0]}"}, 401),
    ],
)
def test_with_keys_one_of_them_is_needed_from_everywhere(headers, status):
    guarded = access(api_keys=", ".join(KEYS))
    for address in ("127.0.0.1", "10.0.0.7"):
        refusal = guarded.refusal(scope(address, **headers))
        assert (refusal and refusal.status) == status


def test_short_key_is_refused_without_showing_it():
    with pytest.raises(ValidationError, match="at least 16 characters") as caught:
        ServiceSettings(api_keys="secret")
    assert "secret" not in str(caught.value)


def test_rate_is_counted_for_each_client_and_says_when_to_come_back():
    clock = Clock()
    limited = access(clock, rate_limit=0.5, api_keys=",".join(KEYS))
    first, second = (scope(x_api_key=key) for key in KEYS[:2])
    assert limited.refusal(first) is None
    refusal = limited.refusal(first)
    assert (refusal.status, refusal.headers["Retry-After"]) == (429, "2")
    assert limited.refusal(second) is None
    clock.now = 1.9
    assert limited.refusal(first).headers["Retry-After"] == "1"
    clock.now = 2.0
    assert limited.refusal(first) is None
    assert limited.refusal(first).status == 429


def test_rate_allows_twice_as_many_at_once_and_no_more_after_a_rest():
    clock = Clock()
    limited = access(clock, rate_limit=10)
    for now in (0.0, 1000.0):
        clock.now = now
        let_in = [limited.refusal(scope()) is None for _ in range(25)]
        assert let_in == [True] * 20 + [False] * 5


def test_clients_that_are_remembered_are_bounded():
    limited = access(rate_limit=0.001, api_keys="")
    for number in range(MAX_CLIENTS + 10):
        address = f"127.{number >> 16}.{number >> 8 & 255}.{number & 255}"
        assert limited.refusal(scope(address)) is None
    assert len(limited._tokens) == MAX_CLIENTS


def test_served_keys_and_rate(settings, store, monkeypatch):
    register(settings, fitted("xgboost"), contract())
    monkeypatch.setenv("NEXTBUY_SERVICE_API_KEYS", ",".join(KEYS))
    monkeypatch.setenv("NEXTBUY_SERVICE_RATE_LIMIT", "0.0001")
    with running(settings) as url:
        for path in ("/livez", "/readyz", "/", "/docs.json"):
            assert httpx.get(url + path).status_code == 200
        for path in ("/model", "/metrics"):
            assert httpx.get(url + path).status_code == 401
        closed = httpx.post(f"{url}/predict", json=BODY)
        assert closed.status_code == 401
        assert closed.headers["www-authenticate"] == "Bearer"
        assert "X-Api-Key" in closed.json()["error"]
        assert predict(url, **BODY)["items"]  # the client finds the key in the same place
        with pytest.raises(NextbuyError, match="429"):
            predict(url, **BODY)
        other = httpx.post(f"{url}/predict", json=BODY, headers={"x-api-key": KEYS[1]})
        assert other.status_code == 200
        monkeypatch.setenv("NEXTBUY_SERVICE_API_KEYS", KEYS[2])
        assert scrape(url)["requests"] == 2  # monitoring's key
    log = (settings.data / "logs" / "service.log").read_text()
    assert not [key for key in KEYS if key in log]


def test_wrong_setting_ends_the_start_and_names_it(settings, store, monkeypatch):
    register(settings, fitted("xgboost"), contract())
    monkeypatch.setenv("NEXTBUY_SERVICE_API_KEYS", "short-secret")
    with pytest.raises(NextbuyError, match="api_keys") as caught, running(settings):
        pass
    assert "short-secret" not in str(caught.value)
