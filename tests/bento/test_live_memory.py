"""Redis holds the shoppers of late, however many there ever were."""

import time

import pytest

from nextbuy.cli import serving
from nextbuy.live.event_store import COLUMNS, EventRow, now_us
from nextbuy.live.worker import Worker
from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import running_redis

SHOPPERS = 150  # in a round
ROUNDS = 10
TTL = 6  # seconds
PATIENCE = 120


@pytest.fixture
def worker(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path))
    monkeypatch.setenv("NEXTBUY_SHOPPER_TTL", f"PT{TTL}S")
    monkeypatch.delenv("REDIS_URL", raising=False)
    settings = Settings()
    with running_redis(settings):
        serving.apply()
        yield Worker(settings)


def views(number, of="u"):
    """One event each of a round's shoppers, just now."""
    us = now_us()
    return [
        EventRow(f"{of}{number}-{i}", f"u{number}-{i}", us, "view", f"i{i % 9}", "c", "b", 100, 0)
        for i in range(SHOPPERS)
    ]


def take(worker, rows):
    worker.store.append(rows, now_us())
    assert worker.step() == SHOPPERS
    info = worker._client.info("memory")
    return worker._client.dbsize(), info["used_memory_dataset"]


def seen(worker, user):
    found = worker._feast.get_online_features(["user:n_views"], [{"user_id": user}]).to_dict()
    return found["n_views"][0]


def await_at_most(keys, worker):
    until = time.monotonic() + PATIENCE
    while worker._client.dbsize() > keys:
        assert time.monotonic() < until, "rows whose time is over stay in Redis"
        time.sleep(0.1)


def test_ten_times_the_shoppers_take_no_more_memory_once_their_time_is_over(worker):
    keys, memory = take(worker, views(0))
    peak = keys
    for number in range(1, ROUNDS):
        await_at_most(2 * keys, worker)
        peak = max(peak, take(worker, views(number))[0])
    # Were nothing to end, there would be ten times the keys of one round now.
    assert peak < 3.5 * keys
    await_at_most(0.1 * keys, worker)
    assert seen(worker, "u0-0") is None
    again_keys, again_memory = take(worker, views(0, of="again"))
    assert again_keys <= 1.1 * keys
    assert again_memory <= 1.5 * memory
    # Who comes back has their whole past: it is kept on the disk, not in Redis.
    assert seen(worker, "u0-0") == 2


def test_a_shopper_with_a_million_events_is_not_loaded_and_holds_up_nobody(worker):
    many = 1_000_000
    columns = ", ".join(COLUMNS)
    worker.store.sql.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
        f"INSERT INTO events ({columns}) SELECT 'm' || i, 'crawler', ? + i, 'view', 'i1', "
        "'c', 'b', 100, 0, NULL FROM n",
        [many, now_us() - 2 * many],
    )
    crawler = EventRow("last", "crawler", now_us(), "view", "i1", "c", "b", 100, 0)
    worker.store.append([crawler, *views(0)], now_us())
    assert worker.step() == SHOPPERS + 1
    assert worker.oversized == {"crawler"}
    assert "crawler" not in worker.features.cached
    assert seen(worker, "u0-0") == 1
    assert seen(worker, "crawler") is None
    assert worker.step() == 0
