"""The work of a live event does not grow with what shoppers share."""

import sqlite3
import time

import pytest

from nextbuy.live import worker as workers
from nextbuy.live.event_store import EventRow, LiveStore
from nextbuy.live.features import affected_by
from nextbuy.settings import Settings
from nextbuy.times import SECOND
from tests.nextbuy.histories import event
from tests.nextbuy.test_live_features import assert_same, begin, row, worker

__all__ = ["worker"]
MANY = 800


def sharing(session, count=MANY):
    """Views and log-ins of as many shoppers, a second apart."""
    kinds = ("view", "login")
    return [
        event(f"u{i}", i * SECOND, kinds[i % 2], source_session_id=session(i)) for i in range(count)
    ]


def send(worker, events):
    """Work events off fifty at a time; returns (seconds, shoppers computed)."""
    begin(worker)
    computed = []
    rows = worker.features.rows
    worker.features.rows = lambda since: computed.append(len(since)) or rows(since)
    began = time.perf_counter()
    try:
        for start in range(0, len(events), 50):
            part = [row(e) for e in events[start : start + 50]]
            worker.store.append(part, received_us=0)
            assert worker.step() == len(part)
    finally:
        del worker.features.rows
    return time.perf_counter() - began, sum(computed)


def test_a_crowd_in_one_shop_session_costs_no_more_than_one_session_each(worker):
    alone, computed_alone = send(worker, sharing(lambda i: f"s{i}"))
    shared, computed_shared = send(worker, sharing(lambda i: "0"))
    print(f"{MANY} events: {shared:.2f} s shared, {alone:.2f} s alone, {shared / alone:.2f} times")
    assert computed_alone == MANY
    # The first ones are computed again for each other, until they are too many.
    assert computed_shared <= MANY + 30


def test_a_crowd_ends_in_the_batch_features(worker):
    events = sharing(lambda i: "null", count=12)
    send(worker, events)
    assert_same(worker, events)


def test_a_late_crowd_ends_in_the_batch_features(worker):
    """Each is earlier than all before: who is linked changes with every event."""
    events = sharing(lambda i: "undefined", count=12)[::-1]
    send(worker, events)
    assert_same(worker, events)


def test_a_long_chain_of_shop_sessions_is_left_to_the_batch_and_holds_up_nobody(
    worker, monkeypatch
):
    begin(worker)
    monkeypatch.setattr(workers, "MAX_LINKED", 5)
    chain = [
        each
        for i in range(10)
        for each in (
            event(f"c{i}", i * SECOND, "view", source_session_id=f"s{i}"),
            event(f"c{i + 1}", i * SECOND, "login", source_session_id=f"s{i}"),
        )
    ]
    worker.store.append([row(e) for e in chain], 0)
    worker.step()
    assert worker.oversized == {f"c{i}" for i in range(11)}
    worker.store.append([row(event("other", 0, "view"))], 0)
    worker.step()
    assert_same(worker, [event("other", 0, "view")])


def test_who_shares_nothing_but_a_crowd_is_followed_to_nobody(tmp_path):
    events = sharing(lambda i: "0")
    with LiveStore(Settings(data=tmp_path)) as store:
        store.append([row(e) for e in events], 0)
        last = events[-1]
        found = affected_by(store, {last["user_id"]: last["event_us"]}, 10, 100)
        assert [group.users for group in found.groups] == [[last["user_id"]]]
        first = events[0]
        found = affected_by(store, {first["user_id"]: first["event_us"] + 1}, 10, 100)
        assert [sorted(group.users) for group in found.groups] == [
            sorted(e["user_id"] for e in events[:10])
        ]


OLD_STORE = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE events (
    event_id TEXT, user_id TEXT, event_us INTEGER, event_type TEXT, item_id TEXT, category TEXT,
    brand TEXT, price INTEGER, discount INTEGER, source_session_id TEXT,
    seq INTEGER, received_us INTEGER, PRIMARY KEY (user_id, event_us, event_id)
) WITHOUT ROWID;
CREATE TABLE visits (
    source_session_id TEXT, user_id TEXT, PRIMARY KEY (source_session_id, user_id)
) WITHOUT ROWID;
CREATE TABLE shared (
    user_id TEXT, source_session_id TEXT, PRIMARY KEY (user_id, source_session_id)
) WITHOUT ROWID;
CREATE TABLE stale (user_id TEXT PRIMARY KEY, since_us INTEGER) WITHOUT ROWID;
INSERT INTO meta VALUES ('id', 'old'), ('seq', '2');
INSERT INTO events VALUES
    ('e1', 'u1', 20, 'view', 'i1', NULL, NULL, NULL, NULL, 's1', 1, 5),
    ('e2', 'u1', 10, 'view', 'i1', NULL, NULL, NULL, NULL, 's1', 2, 6);
INSERT INTO visits VALUES ('s1', 'u1');
INSERT INTO stale VALUES ('u1', 10);
"""


def test_a_store_of_an_older_version_goes_on(tmp_path):
    settings = Settings(data=tmp_path)
    settings.live.mkdir(parents=True)
    with sqlite3.connect(settings.live / "events.sqlite") as old:
        old.executescript(OLD_STORE)
    with LiveStore(settings) as store:
        assert store.sql.execute("SELECT * FROM visits").fetchall() == [("s1", "u1", 10)]
        assert store.pending_users() == {"u1": 10}
        assert [e.event_id for e in store.events_after(0, 10).rows] == ["e1", "e2"]
        assert store.append([EventRow("e3", "u2", 30, "login", source_session_id="s1")], 0) == [
            "new"
        ]
        assert store.linked_users("u2", 10, 100) == ["u2", "u1"]


@pytest.mark.parametrize("name", ["u\x00v", "it's", "💥"])
def test_any_id_that_an_older_version_took_is_looked_up_whole(tmp_path, name):
    with LiveStore(Settings(data=tmp_path)) as store:
        rows = [
            EventRow("e1", name, 10, "view", source_session_id=f"s{name}"),
            EventRow("e2", "ann", 20, "login", source_session_id=f"s{name}"),
        ]
        store.append(rows, 0)
        assert sorted(store.linked_users(name, 10, 100)) == sorted([name, "ann"])
        assert store.sizes([name]) == {name: 1}
        with store.transaction():
            store.remove(["e1"])
        assert store.linked_users("ann", 10, 100) == ["ann"]
