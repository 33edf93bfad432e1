"""A running service during hostile events: a good event is in Redis within two seconds."""

import json
import time

import httpx
import pytest

from bento.serve import running
from nextbuy.events import Event
from nextbuy.live.event_store import EventRow, LiveStore, now_us
from nextbuy.live.health import live_health
from nextbuy.live.set_apart import events_apart
from nextbuy.stores.online.redis_server import connect
from tests.bento import live_shop
from tests.bento.test_live import score, view, worked_off
from tests.shop import environment

SECONDS = 2.0
AT = "2024-02-14T22:00:00Z"
MANY = 800


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with environment(
        tmp_path_factory.mktemp("hostile"), NEXTBUY_SERVICE_TIME_BUDGET_MS="5000"
    ) as settings:
        live_shop.build(settings, shoppers=40, days=45)
        live_shop.with_model(settings)
        # As an older version left it: an id with a NUL waits in the store.
        with LiveStore(settings) as store, store.transaction():
            row = EventRow("old", "x\x00y", now_us(), "view", "i00001")
            store.insert([row], now_us())
        yield settings


@pytest.fixture(scope="module")
def url(shop):
    with running(shop) as base:
        send(base, [view("first", "first", "i00001", AT)])
        worked_off(shop)  # the worker has started, and passed what the older version left
        yield base


def send(url, events):
    return httpx.post(f"{url}/events", json={"events": events}, timeout=60)


def seconds_to_redis(url, user):
    """From the acknowledgement of one event of a new shopper until an answer knows of it."""
    answer = send(url, [view(f"good-{user}", user, "i00001", AT)])
    assert answer.status_code == 200, answer.text
    began = time.monotonic()
    while score(url, user, ["i00001"])["cold_start"]:
        assert time.monotonic() - began < 30, "the event does not reach Redis"
        time.sleep(0.02)
    return time.monotonic() - began


def crowd(session, first=0):
    return [
        view(f"{session}-{i}", f"{session}-u{i}", "i00001", AT, source_session_id=session)
        | ({"event_type": "login", "item_id": None} if i % 2 else {})
        for i in range(first, first + MANY)
    ]


def spoil(settings, user):
    """Another program wrote over a shopper's rows: none of their events can be worked off."""
    client = connect(settings)
    for key in [key for key in client.scan_iter() if user.encode() in key]:
        client.delete(key)
        client.set(key, "of another program")


def test_what_an_older_version_left_is_set_apart(shop, url):
    with LiveStore(shop) as store:
        assert [each.event.event_id for each in events_apart(store)] == ["old"]


@pytest.mark.parametrize(
    "events",
    [
        crowd("0"),
        crowd("null"),
        [{**event, "event_time": f"2024-02-14T21:{59 - i // 60 % 60:02}:{59 - i % 60:02}Z"}
         for i, event in enumerate(crowd("undefined"))],
    ],
    ids=["one session", "again another", "each earlier than the last"],
)  # fmt: skip
def test_a_crowd_holds_up_nobody(shop, url, events):
    assert send(url, events).status_code == 200
    took = seconds_to_redis(url, f"good-{events[0]['source_session_id']}")
    assert took < SECONDS
    worked_off(shop)


def test_events_that_cannot_be_worked_off_hold_up_nobody(shop, url):
    send(url, [view("s0", "spoiled", "i00001", AT)])
    worked_off(shop)
    spoil(shop, "spoiled")
    bad = [view(f"s{i}", "spoiled", f"i{i:05}", AT) for i in range(1, 20)]
    times = []
    for i, event in enumerate(bad):
        send(url, [event])
        times.append(seconds_to_redis(url, f"beside-{i}"))
    print("seconds to Redis beside events that cannot be worked off:", sorted(times)[-3:])
    assert max(times) < SECONDS
    worked_off(shop)
    metrics = httpx.get(f"{url}/metrics", timeout=30).text
    assert f"nextbuy_live_set_apart_events {float(len(bad) + 1)}" in metrics
    assert "nextbuy_live_waiting_events 0.0" in metrics
    assert "feast_" not in metrics


@pytest.mark.parametrize("field", ["event_id", "user_id", "item_id", "brand", "source_session_id"])
@pytest.mark.parametrize("letter", ["\x00", "\x1b", "\x7f", "\x85", "\u2028", "\ud800"])
def test_a_text_with_a_control_character_is_refused_by_its_field(url, field, letter):
    event = {**view("c1", "u-control", "i00001", AT), field: f"a{letter}b"}
    content = json.dumps({"events": [event]})  # half a character is written as its escape
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{url}/events", content=content, headers=headers, timeout=30)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert f"{field}: has the character U+{ord(letter):04X} at position 2" in error
    assert "send it without" in error


def test_letters_of_any_writing_are_taken():
    """Joiners and marks of direction belong to the writing of many languages."""
    for text in ("नमस्\u200dते", "‏עברית‎", "👩\u200d🚀", "a b", "é"):
        assert (
            Event(event_id="e", user_id=text, event_time=AT, event_type="view", item_id="i").user_id
            == text
        )


def test_a_lag_is_seen_in_readiness_and_metrics(shop, monkeypatch):
    """The worker's process is stopped: events are acknowledged, and wait."""
    import signal

    import psutil

    monkeypatch.setenv("NEXTBUY_SERVICE_MAX_LAG_SECONDS", "1")
    with running(shop) as base:
        seconds_to_redis(base, "before-the-lag")
        assert httpx.get(f"{base}/readyz", timeout=30).status_code == 200
        (worker,) = (
            p
            for p in psutil.Process().children(recursive=True)
            if "nextbuy.live.worker" in p.cmdline()
        )
        worker.send_signal(signal.SIGSTOP)
        try:
            assert send(base, [view("late", "waits", "i00001", AT)]).status_code == 200
            time.sleep(1.5)
            answer = httpx.get(f"{base}/readyz", timeout=30)
            assert answer.status_code == 503
            assert "1 live events wait" in answer.text
            assert "NEXTBUY_SERVICE_MAX_LAG_SECONDS is 1" in answer.text
            assert live_health(shop).waiting_events == 1
            lines = httpx.get(f"{base}/metrics", timeout=30).text.splitlines()
            values = dict(line.split(" ") for line in lines if line.startswith("nextbuy_live"))
            assert float(values["nextbuy_live_waiting_events"]) == 1
            assert float(values["nextbuy_live_oldest_waiting_seconds"]) > 1
        finally:
            worker.send_signal(signal.SIGCONT)
        worked_off(shop)
        assert httpx.get(f"{base}/readyz", timeout=30).status_code == 200
        worker.kill()
        seconds_to_redis(base, "after-the-end")  # another one was started
        assert live_health(shop).restarts >= 1
