"""What is said of live events that wait: how many, for how long, why, and what to do."""

import json

import pytest
from typer.testing import CliRunner

from monitoring.live import live
from nextbuy.cli import app
from nextbuy.live import health
from nextbuy.live.event_store import EventRow, LiveStore, now_us
from nextbuy.live.health import count_restart, live_health, report_worker
from nextbuy.live.set_apart import set_apart
from nextbuy.settings import Settings
from nextbuy.times import SECOND

MINUTES = 60 * SECOND


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path))
    return Settings()


@pytest.fixture
def store(settings):
    """Three events: the first is worked off, the others came five and four minutes ago."""
    with LiveStore(settings) as store:
        for number, minutes in enumerate((9, 5, 4)):
            row = EventRow(f"e{number}", f"u{number}", now_us(), "view", "i1")
            store.append([row], now_us() - minutes * MINUTES)
        report_worker(store, 1, 0, None)
        yield store


def report(store, minutes_ago, problem=None):
    text = json.dumps({"at_us": now_us() - minutes_ago * MINUTES, "problem": problem})
    with store.transaction():
        store.set_meta(health.WORKER, text)


def test_a_shop_without_live_events_has_nothing_to_watch(settings):
    assert live_health(settings) is None
    assert list(live(settings)) == ["No live event has come yet. Send some: POST /events"]


def test_what_waits_and_for_how_long(settings, store):
    found = live_health(settings)
    assert found.waiting_events == 2
    assert found.oldest_seconds == pytest.approx(300, abs=20)
    (waiting, apart) = live(settings)
    assert (waiting.name, waiting.unit) == ("live", "seconds")
    assert waiting.value == pytest.approx(300, abs=20)
    assert "2 live events wait" in waiting.message
    assert (apart.name, apart.value) == ("live_set_apart", 0)


@pytest.mark.parametrize(
    ("minutes", "problem", "cause", "remedy"),
    [
        (0, None, "at work", "Send fewer events at a time"),
        (0, "ConnectionError: no Redis", "waits: ConnectionError: no Redis", "Bring that back"),
        (6, None, "silent for 0:06:00", "nextbuy serve"),
        (6, "ConnectionError: no Redis", "silent for 0:06:00", "nextbuy serve"),
    ],
)
def test_the_advice_fits_the_cause(settings, store, minutes, problem, cause, remedy):
    report(store, minutes, problem)
    found = live_health(settings)
    assert cause in found.cause
    assert remedy in found.remedy


def test_restarts_are_counted_and_outlive_the_service(settings, store):
    for _ in range(3):
        count_restart(settings)
    report(store, 6)
    assert live_health(settings).restarts == 3
    assert "ended by itself 3 times" in live_health(settings).cause


def test_once_worked_off_nothing_waits(settings, store):
    report_worker(store, 3, 0, None)
    found = live_health(settings)
    assert (found.waiting_events, found.oldest_seconds) == (0, 0)
    assert "no event waits" in str(found)


def test_the_verb_shows_retries_and_discards(settings, store):
    set_apart(store, {"e1": "ValueError: one", "e2": "ValueError: two"})
    run = CliRunner().invoke

    def says(*arguments):
        result = run(app, ["live", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    shown = says()
    assert "'e1'" in shown
    assert "ValueError: two" in shown
    assert "events set apart: 2" in shown
    assert "nextbuy live retry" in shown
    assert "1 events arrive again" in says("retry", "e2")
    assert live_health(settings).set_apart_events == 1
    assert "1 events discarded" in says("discard", "e1")
    assert "events set apart: 0" in says("status")
    for arguments, why in ((["retry", "e9"], "e9"), (["discard"], "--all")):
        assert why in str(run(app, ["live", *arguments]).exception)
    with LiveStore(settings) as again:
        assert [row.event_id for row in again.events_after(1, 9).rows] == ["e2"]
