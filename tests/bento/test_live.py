"""Events in over HTTP, the next score moved, and parity with the offline store."""

import json
import resource
import shutil
import time
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial

import httpx
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest

from bento.serve import running
from generators.replay import replay
from monitoring import signals
from monitoring.dashboard import try_it
from monitoring.parity import parity
from monitoring.service_metrics import own_service
from nextbuy.errors import NextbuyError
from nextbuy.features import TABLES
from nextbuy.live.event_store import LiveStore
from nextbuy.live.worker import CURSOR
from nextbuy.log_span import LogSpan
from nextbuy.maintenance.erase import forget
from nextbuy.prediction_log import prediction_parts
from nextbuy.settings import Settings
from nextbuy.shop import SHOP_FILE
from nextbuy.stores.online.redis_server import connect
from nextbuy.versioned_table import manifest
from tests.bento import live_shop
from tests.shop import environment


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    with environment(
        tmp_path_factory.mktemp("live"), NEXTBUY_SERVICE_TIME_BUDGET_MS="5000"
    ) as settings:
        files = live_shop.build(settings, last=3)
        live_shop.with_model(settings)
        yield settings, files


@pytest.fixture(scope="module")
def url(shop):
    settings, _ = shop
    with running(settings, at="newest") as base:
        yield base


def worked_off(settings, seconds=120):
    """Wait until Redis has the features of all events that were acknowledged."""
    client, deadline = connect(settings), time.monotonic() + seconds
    with LiveStore(settings) as store:
        while store.sequence_from_cursor((client.get(CURSOR) or b"").decode()) < int(
            store.get_meta("seq") or 0
        ):
            assert time.monotonic() < deadline, "the live worker does not come along"
            time.sleep(0.05)


def moment(text):
    return datetime.fromisoformat(text)


def log_end(settings):
    return LogSpan.from_info(manifest(settings.sessions).info).end


def view(event_id, user, item, at="2024-02-29T22:00:00Z", **more):
    return {
        "event_id": event_id,
        "user_id": user,
        "item_id": item,
        "event_time": at,
        "event_type": "view",
        **more,
    }


def score(url, user, items):
    body = {"user_id": user, "item_ids": items, "untouched": True}
    return httpx.post(f"{url}/predict", json=body, timeout=30).json()


def test_an_event_goes_in_and_the_next_answer_knows_it(shop, url):
    settings, _ = shop
    before = score(url, "stranger", ["i00001"])
    assert before["cold_start"]
    events = [view(f"n{i}", "stranger", "i00001", f"2024-02-29T22:0{i}:00Z") for i in range(3)]
    answer = httpx.post(f"{url}/events", json={"events": events}, timeout=30)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert moment(told.pop("log_ends")) == log_end(settings)
    assert told == {
        "accepted": 3, "duplicates": 0, "refused": [], "new_items": [], "far_ahead": 0
    }  # fmt: skip
    worked_off(settings)
    after = score(url, "stranger", ["i00001"])
    assert not after["cold_start"]
    assert after["features_at"]["user"] == "2024-02-29T22:02:00Z"
    assert after["items"][0]["features_at"]["user_item"] == "2024-02-29T22:02:00Z"


def test_an_event_of_today_closes_no_door_in_a_log_of_the_past(shop, url):
    """What every newcomer does first: a view with the present time."""
    settings, _ = shop
    now = datetime.now(UTC).isoformat()
    told = httpx.post(f"{url}/events", json=view("t1", "tester", "i00001", now), timeout=30).json()
    assert (told["accepted"], told["far_ahead"]) == (1, 1)
    past = view("t2", "tester", "i00002", "2024-02-28T22:00:00Z")
    told = httpx.post(f"{url}/events", json=past, timeout=30).json()
    assert (told["accepted"], told["far_ahead"]) == (1, 0)
    worked_off(settings)
    answer = httpx.post(f"{url}/predict", json={"user_id": "tester"}, timeout=30).json()
    states = {item["item_id"]: item["state"] for item in answer["items"]}
    assert states["i00001"] == "open"  # as of the shopper's own last event
    other = httpx.post(f"{url}/predict", json={"user_id": "u000001"}, timeout=30).json()
    assert moment(other["as_of"]) == log_end(settings)


def test_good_events_of_a_mixed_batch_are_kept_and_bad_ones_named(shop, url):
    events = [
        view("m1", "u-mixed", "i00001"),
        view("m2", "u-mixed", None),
        {**view("m3", "u-mixed", "i00001"), "price": -1},
        view("m4", "u-mixed", "i00001", "2199-01-01T00:00:00Z"),
        view("m5", "u-mixed", "i00001", "2024-01-02T00:00:00Z"),
        view("m6", "u-mixed", "never-seen"),
        view("m6", "u-mixed", "never-seen"),
        view("m6", "u-mixed", "i00002"),
    ]
    answer = httpx.post(f"{url}/events", json={"events": events}, timeout=30)
    assert answer.status_code == 207
    told = answer.json()
    assert (told["accepted"], told["duplicates"]) == (2, 1)
    assert told["new_items"] == ["never-seen"]
    why = {each["index"]: each["error"] for each in told["refused"]}
    assert "needs an item_id" in why[1]
    assert "price" in why[2]
    assert "future" in why[3]
    assert "nextbuy ingest" in why[4]
    assert "another event" in why[7]
    assert len(why) == 5


@pytest.mark.parametrize(
    ("content", "status", "says"),
    [
        (b'{"events": [', 400, "not valid JSON"),
        (b"[1]", 400, "event"),
        (b'{"events": []}', 400, "several as"),
        (b'{"events": [{}]}', 400, "user_id"),
        (b'{"events": [' + b"1," * 1000 + b"1]}", 413, "at most 1000"),
        (b" " * 50_000_000, 413, "larger than"),
    ],
)
def test_a_body_that_cannot_be_used_is_refused_with_the_reason(url, content, status, says):
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{url}/events", content=content, headers=headers, timeout=30)
    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_the_page_try_it_shows_the_score_and_what_if_the_price_were_lower(shop, url, monkeypatch):
    monkeypatch.setenv("NEXTBUY_SERVICE_URL", url)
    script = "from monitoring.dashboard import try_it\ntry_it.show()\n"
    app = AppTest.from_string(script, default_timeout=60).run()
    app.selectbox[0].select_index(0).run()
    assert not app.exception, app.exception
    price = app.slider[0]
    price.set_value(price.min).run()
    assert not app.exception, app.exception
    assert [metric.label for metric in app.metric] == ["Probability"]
    assert "points" in app.metric[0].delta


def test_only_the_service_of_the_data_folder_is_asked(shop, url, monkeypatch, tmp_path):
    settings, _ = shop
    monkeypatch.setenv("NEXTBUY_SERVICE_URL", url)
    assert own_service(settings) == url
    shown = httpx.get(f"{url}/model").json()["shop"]
    assert shown["name"] == settings.data.name
    assert str(settings.data.parent) not in json.dumps(shown)  # a client learns no path
    copied = tmp_path / "copy"
    copied.mkdir()
    shutil.copy(settings.data / SHOP_FILE, copied)
    for other in (Settings(data=tmp_path / "empty"), Settings(data=copied)):
        with pytest.raises(NextbuyError, match="serves another data folder") as refused:
            own_service(other)
        assert "nextbuy serve --port 3001" in str(refused.value)
        assert list(signals.latency(other, datetime.now(UTC))) == [str(refused.value)]
        monkeypatch.setenv("NEXTBUY_DATA", str(other.data))
        # The test driver cannot type an id that is no option.
        monkeypatch.setattr(try_it, "_recent_shoppers", lambda: ["u1"])
        script = "from monitoring.dashboard import try_it\ntry_it.show()\n"
        app = AppTest.from_string(script, default_timeout=60).run()
        app.selectbox[0].select_index(0).run()
        assert [error.value for error in app.error] == [str(refused.value)]


@contextmanager
def full_disk():
    """No file of the service can grow."""
    found = psutil.Process().children(recursive=True)
    processes = [p for p in found if "redis-server" not in " ".join(p.cmdline())]
    before = {p.pid: resource.prlimit(p.pid, resource.RLIMIT_FSIZE) for p in processes}
    try:
        for pid, (_, hard) in before.items():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
        yield
    finally:
        for pid, limits in before.items():
            with suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limits)


def test_events_that_the_disk_does_not_take_are_not_acknowledged(shop, url):
    settings, _ = shop
    events = [view(f"d{i}", "u-disk", "i00001") for i in range(3)]
    with full_disk():
        for _ in range(2):  # the second finds no transaction left open by the first
            answer = httpx.post(f"{url}/events", json={"events": events}, timeout=30)
            assert answer.status_code == 503, answer.text
            assert "Send them again" in answer.json()["error"]
    answer = httpx.post(f"{url}/events", json={"events": events}, timeout=30)
    assert answer.json()["accepted"] == 3
    worked_off(settings)
    assert not score(url, "u-disk", ["i00001"])["cold_start"]


def test_a_replayed_day_has_no_skew(shop, url):
    settings, files = shop
    total = sum(pq.read_metadata(file).num_rows for file in files)
    first = replay(files, url, predict=True, batch=5)
    assert first.sent == total
    assert not first.refused
    worked_off(settings)
    for user in ("stranger", "nobody-knows-me"):
        score(url, user, ["i00001", "never-seen"])
    again = replay(files, url, batch=100)
    assert (again.accepted, again.duplicates) == (0, total)
    time.sleep(1)  # the log writes every 0.2 s
    report = parity(settings)

    assert report.values >= 100_000
    assert report.mismatches == 0, str(report)
    assert report.degraded == report.not_comparable == 0


def test_rows_that_the_service_had_too_late_are_found_out(shop, url, monkeypatch):
    settings, _ = shop
    hour = 3_600_000_000
    with LiveStore(settings) as store:
        shift = "UPDATE batches SET created_us = created_us + ?, written_us = written_us + ?"
        store.sql.execute(shift, [hour, hour])
        try:
            report = parity(settings)
            # A log of any size is compared in parts; they tell what the whole tells.
            small = partial(prediction_parts, rows=50)
            monkeypatch.setattr("monitoring.parity.prediction_parts", small)
            assert len(list(small(settings))) > 3
            assert parity(settings) == report
        finally:
            store.sql.execute(shift, [-hour, -hour])
    assert report.mismatches > 0
    assert set(report.features) & {f"user__{f.name}" for f in TABLES[0].features}
    assert report.worst
    assert parity(settings).mismatches == 0


def names_anywhere(settings, user):
    """Where the id still is, searched by other means than `forget` searches."""
    found = []
    for file in settings.data.rglob("*"):
        if file.suffix == ".parquet" and file.is_file():
            for column in pq.ParquetFile(file).read().columns:
                if pa.types.is_string(column.type) and user in " ".join(
                    column.drop_null().to_pylist()
                ):
                    found.append(file)
        elif file.is_file() and (file.suffix in (".json", ".aof", ".rdb") or "sqlite" in file.name):
            found += [file] if user.encode() in file.read_bytes() else []
    return found + [key for key in connect(settings).scan_iter() if user.encode() in key]


def test_a_forgotten_person_is_found_nowhere(shop, url):
    settings, files = shop
    user = pq.read_table(files[0])["user_id"][0].as_py()
    worked_off(settings)
    places = names_anywhere(settings, user)
    wanted = ("events-", "sessions-", "user-", "user_item-", "labels-", "predictions", "sqlite",
              "appendonly")  # fmt: skip
    for part in wanted:
        assert any(part in str(place) for place in places), part
    before = LiveStore(settings).sizes(["stranger"])
    assert forget(settings, user).removed == {}  # a dry run
    assert names_anywhere(settings, user) == places
    proof = forget(settings, user, remove=True)
    assert proof.left == []
    assert {"live store", "Redis", "events", "sessions", "predictions"} <= set(proof.removed)
    assert names_anywhere(settings, user) == []
    assert LiveStore(settings).sizes(["stranger"]) == before
    assert forget(settings, user, remove=True).removed == {}
    assert score(url, user, ["i00001"])["cold_start"]


def test_a_shopper_called_like_an_event_type_is_one_shopper(shop, url):
    settings, _ = shop
    assert httpx.post(f"{url}/events", json=view("v1", "view", "i00001"), timeout=30).is_success
    worked_off(settings)
    assert not score(url, "view", ["i00001"])["cold_start"]
    published = (settings.events, settings.sessions, settings.features / "user_item")
    tables = [file for table in published for file in table.resolve().rglob("*.parquet")]
    before = [pq.read_table(file) for file in tables]
    keys = len(connect(settings).keys())
    counted = forget(settings, "view")
    places = set(counted.holdings.rows)
    assert {"live store", "Redis"} <= places <= {"live store", "Redis", "predictions"}
    report = forget(settings, "view", remove=True)
    assert report.left == []
    assert report.holdings.others == 0
    assert score(url, "view", ["i00001"])["cold_start"]
    assert len(connect(settings).keys()) == keys - report.removed["Redis"]
    for file, rows in zip(tables, before, strict=True):
        assert pq.read_table(file).equals(rows)
