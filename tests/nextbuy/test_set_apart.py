"""One bad event stops nobody: it is set apart with its error, and everybody else's go on."""

import pytest
import redis

from nextbuy.errors import NextbuyError
from nextbuy.live.event_store import LiveStore, now_us
from nextbuy.live.health import live_health
from nextbuy.live.merge import publish, stage_live_events
from nextbuy.live.set_apart import discard, events_apart, is_outage, retry, shoppers_apart
from nextbuy.network import free_port
from nextbuy.settings import Settings
from nextbuy.times import SECOND
from tests.nextbuy.histories import event
from tests.nextbuy.test_incremental import publish as publish_events
from tests.nextbuy.test_live_features import assert_same, begin, in_redis, row, worker

__all__ = ["worker"]


@pytest.fixture
def shop(worker):
    """The worker of an empty shop."""
    begin(worker)
    worker.store.sql.execute("DELETE FROM set_apart")
    worker._failed_through, worker._tries = None, 0
    return worker


def views(user, *seconds):
    return [event(user, s * SECOND, "view", f"i{s}") for s in seconds]


def work_off(worker, most=60):
    for _ in range(most):
        worker.step()
        if live_health(worker._settings).waiting_events == 0 and worker.step() == 0:
            return
    raise AssertionError("the worker does not come along")


def spoil(worker, user):
    """Put something of another program under one of a shopper's keys; returns it."""
    keys = [key for key in worker._client.keys() if user.encode() in key]  # noqa: SIM118
    for key in keys:
        worker._client.delete(key)
        worker._client.set(key, "of another program")
    return keys


def apart(worker):
    return [each.event.event_id for each in events_apart(worker.store)]


def test_only_the_event_that_cannot_be_worked_off_is_set_apart(shop):
    first = views("spoiled", 0)
    shop.store.append([row(e) for e in first], now_us())
    work_off(shop)
    keys = spoil(shop, "spoiled")
    bad = views("spoiled", 50)
    good = [e for i in range(20) for e in views(f"good{i}", 1, 2)]
    shop.store.append([row(e) for e in (*good[:17], *bad, *good[17:])], now_us())
    work_off(shop)
    assert_same(shop, good)
    assert apart(shop) == [bad[0]["event_id"]]
    assert "something that is no hash" in events_apart(shop.store)[0].error
    health = live_health(shop._settings)
    assert (health.waiting_events, health.set_apart_events) == (0, 1)
    # What comes later of others is not held up, and the same event again is not new.
    more = views("good1", 60)
    assert shop.store.append([row(e) for e in (*more, *bad)], now_us()) == ["new", "duplicate"]
    work_off(shop)
    assert_same(shop, [*good, *more])
    # It survives the process, and arrives again once its cause is removed.
    for key in keys:
        shop._client.delete(key)
    with LiveStore(shop._settings) as store:
        assert retry(store, [bad[0]["event_id"]]) == 1
    work_off(shop)
    assert apart(shop) == []
    assert_same(shop, [*good, *more, *first, *bad])


def test_an_event_is_tried_once_more_before_it_is_set_apart(shop, monkeypatch):
    """A fault that passes by sets nothing apart."""
    failures = iter([True])
    rows = shop.features.rows

    def flickering(since):
        if next(failures, False):
            raise ValueError("for once")
        return rows(since)

    monkeypatch.setattr(shop.features, "rows", flickering)
    sent = views("u1", 0)
    shop.store.append([row(e) for e in sent], now_us())
    work_off(shop)
    assert apart(shop) == []
    monkeypatch.undo()
    assert_same(shop, sent)


def test_a_control_character_of_an_older_version_stops_neither_worker_nor_merge(tmp_path):
    settings = Settings(data=tmp_path, threads=1)
    publish_events(settings, views("old", 0))
    poison = event("x\x00y", 1 * SECOND, "view", event_id="poison")
    good = views("u1", 2)
    with LiveStore(settings) as store, store.transaction():
        store.insert([row(poison), *map(row, good)], now_us())
    with stage_live_events(settings) as staged:
        assert (staged.count, staged.set_apart) == (1, 1)
        publish(staged)
    with LiveStore(settings) as store:
        (only,) = events_apart(store)
        assert only.event == row(poison)
        assert "user_id has the character U+0000 at position 2" in only.error
        assert retry(store) == 0  # it would be none again
        assert len(events_apart(store)) == 1
        with pytest.raises(NextbuyError, match="nextbuy live status"):
            discard(store, ["unheard of"])
        assert discard(store) == 1
        assert events_apart(store) == []


def test_the_worker_passes_a_control_character_of_an_older_version(shop):
    poison = event("x\x00y", 0, "view", event_id="poison")
    good = views("u1", 1)
    with shop.store.transaction():
        shop.store.insert([row(poison), *map(row, good)], now_us())
    assert shop.step() == 1
    assert apart(shop) == [poison["event_id"]]
    assert_same(shop, good)


def assert_waits(shop):
    for _ in range(4):
        with pytest.raises(Exception) as raised:  # noqa: PT011  (of whatever layer)
            shop.step()
        assert is_outage(raised.value), raised.value
    assert apart(shop) == []
    assert live_health(shop._settings).waiting_events == 2


def test_a_redis_that_is_away_sets_nothing_apart(shop, monkeypatch):
    shop.store.append([row(e) for e in views("u1", 0, 1)], now_us())
    monkeypatch.setattr(shop, "_client", redis.Redis(port=free_port()))
    assert_waits(shop)
    monkeypatch.undo()
    work_off(shop)
    assert_same(shop, views("u1", 0, 1))


def test_a_redis_that_is_full_sets_nothing_apart(shop):
    sent = views("u1", 0, 1)
    shop.store.append([row(e) for e in sent], now_us())
    shop._client.config_set("maxmemory", 1)
    try:
        assert_waits(shop)
    finally:
        shop._client.config_set("maxmemory", 0)
    work_off(shop)
    assert_same(shop, sent)


def test_an_event_that_ends_the_worker_is_set_apart_by_its_successors(shop, monkeypatch):
    """As if the process had been killed: nothing that the worker could catch."""
    sent = [*views("good", 0, 1), *views("deadly", 2), *views("good", 3)]
    shop.store.append([row(e) for e in sent], now_us())
    rows = shop.features.rows

    def deadly(since):
        if "deadly" in since:
            raise KeyboardInterrupt
        return rows(since)

    ends = 0
    monkeypatch.setattr(shop.features, "rows", deadly)
    while live_health(shop._settings).waiting_events and ends < 20:
        try:
            shop.step()
        except KeyboardInterrupt:
            ends += 1
            shop._sequence, shop._failed_through, shop._tries = -1, None, 0
            shop.features.clear()
            shop._recall()  # what a new worker does
    assert apart(shop) == [sent[2]["event_id"]]
    assert ends <= 4
    monkeypatch.undo()
    assert_same(shop, [e for e in sent if e["user_id"] == "good"])


def test_a_shopper_who_cannot_be_computed_after_a_publication_holds_up_nobody(shop):
    sent = [*views("spoiled", 0), *views("good", 0)]
    shop.store.append([row(e) for e in sent], now_us())
    work_off(shop)
    spoil(shop, "spoiled")
    with shop.store.transaction():
        shop.store.sql.execute(
            "INSERT INTO stale (user_id, since_us) VALUES ('good', 0), ('spoiled', 0)"
        )
    work_off(shop)
    assert list(shoppers_apart(shop.store)) == ["spoiled"]
    assert shop.store.pending_users() == {}
    assert in_redis(shop, views("good", 0))["user", ("good",)]["n_views"] == 1
    assert live_health(shop._settings).set_apart_shoppers == 1
    retry(shop.store)
    assert list(shop.store.pending_users()) == ["spoiled"]
