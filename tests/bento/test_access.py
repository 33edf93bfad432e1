import httpx
import pytest

from bento.client import predict
from bento.middleware import MAX_CLIENTS, MAX_WRONG_KEYS, AccessControl
from bento.serve import limits, running
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


def scope(address="127.0.0.1", path="/predict", **headers):
    pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "client": (address, 1), "path": path, "headers": pairs}


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
    with pytest.raises(NextbuyError, match="at least 16 characters") as caught:
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
    assert len(limited._rate) == MAX_CLIENTS


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:3000"}, None),
        ({"host": "localhost:3000"}, None),
        ({"host": "[::1]:3000"}, None),
        ({"host": "127.0.0.1:3000", "origin": "http://127.0.0.1:3000"}, None),
        ({"host": "localhost", "origin": "https://localhost"}, None),
        ({"host": "evil.example"}, 403),
        ({"host": "evil.example:3000", "origin": "http://evil.example:3000"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "localhost.evil.example:3000"}, 403),
        ({"host": "0.0.0.0:3000"}, 403),
        ({"host": "127.0.0.1@evil.example"}, 403),
        ({"host": "[::1"}, 403),
        ({"host": "ümläut"}, 403),
        ({"host": "127.0.0.1:3000", "origin": "http://evil.example"}, 403),
        ({"host": "127.0.0.1:3000", "origin": "http://127.0.0.1:8501"}, 403),
        ({"host": "127.0.0.1:3000", "origin": "http://localhost:3000"}, 403),
        ({"host": "127.0.0.1:3000", "origin": "null"}, 403),
        ({"host": "127.0.0.1:3000", "origin": ""}, 403),
        ({"host": "127.0.0.1:3000", "x_forwarded_for": "127.0.0.1"}, 401),
        ({"host": "127.0.0.1:3000", "forwarded": "for=127.0.0.1"}, 401),
        ({"host": "127.0.0.1:3000", "x_real_ip": "8.8.8.8"}, 401),
    ],
)
def test_without_keys_a_page_of_another_origin_or_a_proxy_is_refused(headers, status):
    refusal = access().refusal(scope(**headers))
    assert (refusal and refusal.status) == status


def test_with_keys_name_and_origin_are_free_for_no_page_knows_a_key():
    sent = {"host": "shop.example", "origin": "https://shop.example", "x_api_key": KEYS[0]}
    assert access(api_keys=KEYS[0]).refusal(scope("8.8.8.8", **sent)) is None


COLLECTOR = "a-key-for-events-1"


@pytest.mark.parametrize(
    ("keys", "path", "sent", "status"),
    [
        ({"api_keys": KEYS[0]}, "/events", COLLECTOR, None),
        ({"api_keys": KEYS[0]}, "/predict", COLLECTOR, 403),
        ({"api_keys": KEYS[0]}, "/predict_batch", COLLECTOR, 403),
        ({"api_keys": KEYS[0]}, "/model", COLLECTOR, 403),
        ({"api_keys": KEYS[0]}, "/metrics", COLLECTOR, 403),
        ({"api_keys": KEYS[0]}, "/events", KEYS[0], None),
        ({"api_keys": KEYS[0]}, "/predict", KEYS[0], None),
        ({"api_keys": KEYS[0]}, "/events", "", 401),
        ({}, "/events", COLLECTOR, None),
        ({}, "/predict", COLLECTOR, 403),
        ({}, "/events", "", 401),
        ({}, "/events", "another-key-1234", 401),
    ],
)
def test_a_key_for_events_opens_events_alone(keys, path, sent, status):
    guarded = access(event_keys=COLLECTOR, **keys)
    headers = {"x_api_key": sent} if sent else {}
    refusal = guarded.refusal(scope("8.8.8.8", path, **headers))
    assert (refusal and refusal.status) == status


def test_with_a_key_for_events_alone_the_own_machine_still_needs_none():
    guarded = access(event_keys=COLLECTOR)
    assert guarded.refusal(scope()) is None
    assert guarded.refusal(scope(origin="http://evil.example", host="127.0.0.1")).status == 403


def test_wrong_keys_are_slowed_down_and_right_ones_that_were_used_before_are_not():
    clock = Clock()
    guarded = access(clock, api_keys=",".join(KEYS[:2]))
    assert guarded.refusal(scope("8.8.8.8", x_api_key=KEYS[0])) is None
    guessed = [
        guarded.refusal(scope("8.8.8.8", x_api_key=f"guess-number-{number:06}")).status
        for number in range(MAX_WRONG_KEYS + 5)
    ]
    assert guessed == [401] * MAX_WRONG_KEYS + [429] * 5
    # Whether a guess was right cannot be seen any more from this address.
    right = guarded.refusal(scope("8.8.8.8", x_api_key=KEYS[1]))
    assert (right.status, right.headers["Retry-After"]) == (429, "1")
    assert guarded.refusal(scope("8.8.8.8", x_api_key=KEYS[0])) is None
    assert guarded.refusal(scope("9.9.9.9", x_api_key=KEYS[1])) is None
    clock.now = 1.0
    assert guarded.refusal(scope("8.8.8.8", x_api_key="guess-number-000099")).status == 401
    assert guarded.refusal(scope("8.8.8.8", x_api_key="guess-number-000100")).status == 429
    clock.now = 2.0
    assert guarded.refusal(scope("8.8.8.8", x_api_key=KEYS[1])) is None


def test_one_visitor_does_not_use_up_the_rate_of_a_key_that_every_visitor_has():
    limited = access(rate_limit=0.5, api_keys=KEYS[0], event_keys=COLLECTOR)
    sent = {"path": "/events", "x_api_key": COLLECTOR}
    assert limited.refusal(scope("8.8.8.8", **sent)) is None
    assert limited.refusal(scope("8.8.8.8", **sent)).status == 429
    assert limited.refusal(scope("9.9.9.9", **sent)) is None


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("event_keys", "short"),
        ("event_keys", KEYS[0]),
        ("cors_origins", "*"),
        ("cors_origins", "shop.example"),
        ("cors_origins", "https://shop.example/page"),
        ("trusted_proxies", "*"),
        ("trusted_proxies", "proxy.example"),
        ("trusted_proxies", "10.0.0.1/8"),
    ],
)
def test_a_setting_that_would_open_more_than_it_says_is_refused(setting, value):
    with pytest.raises(NextbuyError, match=f"(?i){setting.split('_')[0]}"):
        ServiceSettings(api_keys=KEYS[0], **{setting: value})


@pytest.mark.parametrize(
    ("keys", "host", "says"),
    [
        ({}, "127.0.0.1", None),
        ({}, "::1", None),
        ({}, "localhost", None),
        ({}, "0.0.0.0", "requests from other machines are answered with 401"),
        ({}, "192.168.1.7", "all requests are answered with 401"),
        ({"event_keys": COLLECTOR}, "0.0.0.0", "except POST /events"),
        ({"api_keys": KEYS[0]}, "0.0.0.0", None),
    ],
)
def test_a_start_on_a_public_address_says_whom_it_will_not_answer(keys, host, says):
    limited = limits(ServiceSettings(**keys), host)
    assert limited is says is None or (says in limited and "NEXTBUY_SERVICE_API_KEYS" in limited)


def test_a_name_to_listen_on_is_refused_with_what_to_write():
    with pytest.raises(NextbuyError, match="shop is no IP address"):
        limits(ServiceSettings(), "shop")


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
