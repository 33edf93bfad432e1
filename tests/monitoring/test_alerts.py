import json
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pyarrow.parquet as pq
import pytest

from monitoring import reports
from monitoring.alerts import (
    AlertRule,
    Signal,
    Silences,
    evaluate,
    read_silences,
    read_state,
    write_state,
)
from monitoring.config import load_config
from monitoring.notify import WEBHOOK, notify
from nextbuy.errors import NextbuyError

RULES = {"drift": AlertRule(above=0.5, over=0.3, runs=2, quiet_runs=2, level="fail")}
START = datetime(2024, 1, 1, tzinfo=UTC)


def signal(value):
    return Signal(
        name="drift", value=value, message="5 features moved.", remedy="Train.", features=("a", "b")
    )


def replay(values, silences=Silences()):  # noqa: B008 (frozen)
    """The alert after each run; None stands for a run that did not see the signal."""
    alerts, states = {}, []
    for day, value in enumerate(values):
        signals = [] if value is None else [signal(value)]
        alerts = evaluate(RULES, signals, alerts, silences, START + timedelta(days=day))
        states.append(alerts["drift"])
    return states


def test_it_is_raised_after_its_runs_and_says_since_when():
    states = replay([0.1, 0.6, 0.7])
    assert [a.state for a in states] == ["quiet", "waiting", "raised"]
    assert states[-1].since == START + timedelta(days=1)
    text = str(states[-1])
    for part in ("since 2024-01-02", "5 features moved", "a, b", "Train."):
        assert part in text


def test_a_value_that_sways_between_the_bounds_does_not_flap():
    states = [a.is_raised for a in replay([0.6, 0.6, 0.4, 0.6, 0.2, 0.4, 0.2, 0.45, 0.6])]
    assert states == [False] + [True] * 8


def test_it_ends_after_its_quiet_runs():
    assert [a.state for a in replay([0.6, 0.6, 0.2, 0.2])][-2:] == ["recovering", "quiet"]


def test_what_recovers_reads_as_recovery():
    states = replay([0.6, 0.6, 0.2, 0.6, 0.2, 0.2])
    assert [a.state for a in states[1:]] == [
        "raised",
        "recovering",
        "raised",
        "recovering",
        "quiet",
    ]
    assert "It has recovered: the alert ends after 1 more such run." in str(states[2])
    assert "Train." not in str(states[2])
    assert "Train." in str(states[3])


def test_one_outlier_raises_nothing():
    assert [a.state for a in replay([0.6, 0.1, 0.6, 0.1])] == ["waiting", "quiet"] * 2


def test_not_to_be_seen_is_not_to_be_over():
    assert [a.state for a in replay([0.6, 0.6, None, None, None])][-1] == "raised"


def test_a_signal_without_a_rule_is_refused():
    with pytest.raises(NextbuyError, match="no alert rule for drift"):
        evaluate({}, [signal(1)], {}, Silences(), START)


def test_people_acknowledge_and_silence_by_file(settings):
    settings.data.mkdir()
    file = settings.data / "alerts.yaml"
    file.write_text("acknowledged: [{alert: 'dr*', by: ann, why: campaign}]")
    assert replay([0.6, 0.6], read_silences(settings))[-1].state == "acknowledged"
    file.write_text("silenced: [{alert: drift, until: 2024-01-03}]")
    states = replay([0.6, 0.6, 0.6], read_silences(settings))
    assert [a.state for a in states] == ["waiting", "silenced", "raised"]
    file.write_text("silenced: [{alert: drift, untill: 2024-01-03}]")
    with pytest.raises(NextbuyError, match="untill"):
        read_silences(settings)


def test_the_state_survives_and_a_damaged_one_is_refused(settings):
    alerts = replay([0.6, 0.6])[-1:]
    write_state(settings, alerts, RULES, START, START)
    assert read_state(settings) == {"drift": alerts[0]}
    assert pq.read_table(reports.folder(settings, reports.ALERTS))["state"].to_pylist() == [
        "raised"
    ]
    file = settings.reports / "alerts.json"
    older = file.read_text().replace('"notified"', '"told"').replace('"muted"', '"quieted"')
    file.write_text(older)
    assert read_state(settings) == {"drift": alerts[0]}
    file.write_text("[{")
    with pytest.raises(NextbuyError, match="damaged"):
        read_state(settings)


@pytest.fixture
def webhook():
    """A real server; what it was sent, and the status it gives."""
    taken, status = [], [200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            taken.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/hook", taken, status
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_webhook_is_told_once_and_again_only_after_a_failure(webhook, monkeypatch):
    url, taken, status = webhook
    monkeypatch.setenv(WEBHOOK, url)
    alerts = replay([0.6, 0.6])[-1:]
    status[0] = 500
    alerts, problem = notify(alerts)
    assert "500" in problem
    status[0] = 200
    alerts, problem = notify(alerts)
    assert problem is None
    alerts, _ = notify(alerts)
    assert len(taken) == 2
    assert "5 features moved" in taken[-1]["text"]
    assert taken[-1]["alerts"][0]["features"] == ["a", "b"]


def test_what_is_acknowledged_is_not_told(webhook, monkeypatch):
    url, taken, _ = webhook
    monkeypatch.setenv(WEBHOOK, url)
    silences = Silences.model_validate({"acknowledged": [{"alert": "drift"}]})
    notify(replay([0.6, 0.6], silences)[-1:])
    assert taken == []


def test_the_shipped_rules_cover_every_signal():
    assert {"quality_blocked", "freshness", "drift", "performance", "parity", "latency"} <= set(
        load_config().alerts
    )
