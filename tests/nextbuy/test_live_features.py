"""Live features are the batch features, in whatever order and how often the events come."""

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextbuy.cli import serving
from nextbuy.live.event_store import COLUMNS, EventRow, LiveStore
from nextbuy.live.features import LiveFeatures, live_tables
from nextbuy.live.worker import Worker
from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import running_redis
from nextbuy.times import DAY, SECOND
from tests.nextbuy.histories import CONFIG, START, computed, event, histories


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A worker on a Redis of its own; features are cut by `histories.CONFIG`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEXTBUY_DATA", str(tmp_path_factory.mktemp("live")))
        patch.delenv("REDIS_URL", raising=False)
        ours = Settings()
        with running_redis(ours):
            serving.apply()
            found = Worker(ours)
            found.features = LiveFeatures(live_tables(ours), CONFIG)
            yield found


def begin(worker):
    """Forget everything, as in a new data folder."""
    worker._client.flushall()
    for table in ("events", "items", "visits", "stale", "batches", "rows", "meta"):
        worker.store.sql.execute(f"DELETE FROM {table}")
    worker.store.set_meta("id", "another")
    worker.features.clear()
    worker.oversized.clear()


def row(e):
    return EventRow(**e)


def in_redis(worker, events):
    """View -> {key: (event timestamp's features)} as Feast reads it."""
    store = worker._feast
    users = sorted({e["user_id"] for e in events})
    items = sorted({e["item_id"] for e in events if e["item_id"]})
    pairs = list(itertools.product(users, items))  # a log-in brings the items of another id
    found = {}
    for view in (store.get_feature_view(table.name) for table in live_tables(Settings())):
        keys = [c.name for c in view.entity_columns]
        asked = [(u,) for u in users] if keys == ["user_id"] else pairs
        if not asked:
            continue
        refs = [f"{view.name}:{f.name}" for f in view.features]
        entities = [dict(zip(("user_id", "item_id"), key, strict=False)) for key in asked]
        got = store.get_online_features(refs, entities).to_dict()
        names = [f.name for f in view.features]
        for i, key in enumerate(asked):
            values = {name: got[name][i] for name in names}
            if any(value is not None for value in values.values()):
                found[view.name, key] = values
    return found


def in_batch(events):
    """The same from the batch build: the latest row of each key."""
    found, stamps = {}, {}
    for name, rows in computed(events, list(live_tables(Settings()))).items():
        for (*key, us), values in rows.items():
            place = name, tuple(key)
            if us >= stamps.get(place, us):
                found[place], stamps[place] = values, us
    return found


def assert_same(worker, events):
    wanted, got = in_batch(events), in_redis(worker, events)
    # A late event may take back a link: what it brought stays until it is materialized again.
    own = {(e["user_id"], e["item_id"]) for e in events} | {(e["user_id"],) for e in events}
    assert not {key for _, key in got.keys() - wanted.keys()} & own
    assert wanted.keys() <= got.keys()
    for place, values in wanted.items():
        for name, value in values.items():
            assert got[place][name] == value, (place, name)


@settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(histories(most=25), st.data())
def test_any_order_delay_or_repetition_ends_in_the_batch_features(worker, events, data):
    begin(worker)
    sent = data.draw(st.permutations(events + data.draw(st.lists(st.sampled_from(events)))))
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=4))
    bounds = sorted({0, *cuts, len(sent)})
    for start, end in itertools.pairwise(bounds):
        worker.store.append([row(e) for e in sent[start:end]], received_us=0)
        worker.step()
    assert_same(worker, events)


def test_a_late_event_that_joins_two_sessions_moves_both(worker):
    begin(worker)
    two = [event("u1", 0, "view"), event("u1", 50 * 60 * SECOND, "view", "i2")]
    for e in two:
        worker.store.append([row(e)], 0)
        worker.step()
    late = event("u1", 25 * 60 * SECOND, "view", "i3")
    worker.store.append([row(late)], 0)
    worker.step()
    assert_same(worker, [*two, late])
    assert in_redis(worker, [*two, late])["user", ("u1",)]["n_sessions"] == 1


def test_a_late_visit_reaches_the_shopper_it_turned_out_to_be(worker):
    begin(worker)
    login = event("u1", 60 * SECOND, "login", source_session_id="s1")
    visits = [event("a1", i * SECOND, "view", source_session_id="s1") for i in range(3)]
    for e in (visits[0], login, *visits[1:]):
        worker.store.append([row(e)], 0)
        worker.step()
    assert in_redis(worker, [login])["user", ("u1",)]["n_views"] == 3
    assert_same(worker, [login, *visits])


def test_the_cart_goes_on_over_a_log_in_and_closes_under_both_ids(worker):
    begin(worker)
    visit = [
        event("a1", 0, "view", source_session_id="s1"),
        event("a1", 60 * SECOND, "add_to_cart", source_session_id="s1"),
        event("u1", 120 * SECOND, "login", source_session_id="s1"),
    ]
    for e in visit:
        worker.store.append([row(e)], 0)
        worker.step()
    found = in_redis(worker, visit)
    assert found["user_item", ("u1", "i1")]["is_in_cart"]
    assert found["recent_items", ("u1",)]["item_ids"] == ["i1"]
    bought = event("u1", 300 * SECOND, "purchase", source_session_id="s1")
    worker.store.append([row(bought)], 0)
    worker.step()
    found = in_redis(worker, [*visit, bought])
    assert not found["user_item", ("u1", "i1")]["is_in_cart"]
    assert not found["user_item", ("a1", "i1")]["is_in_cart"]
    assert_same(worker, [*visit, bought])


def test_a_redis_that_lost_its_last_moments_is_brought_up_to_date(worker):
    begin(worker)
    events = [event("u1", i * DAY, "view", f"i{i}") for i in range(4)]
    worker.store.append([row(e) for e in events[:2]], 0)
    worker.step()
    kept = {key: worker._client.dump(key) for key in worker._client.keys()}  # noqa: SIM118
    worker.store.append([row(e) for e in events[2:]], 0)
    worker.step()
    worker._client.flushall()
    for key, content in kept.items():
        worker._client.restore(key, 0, content)
    assert worker.step() == 2
    assert_same(worker, events)


def test_a_shopper_beyond_the_limit_keeps_their_features_and_holds_up_nobody(worker, monkeypatch):
    begin(worker)
    monkeypatch.setattr("nextbuy.live.worker.MAX_HISTORY", 10)
    many = [event("u1", i * SECOND, "view") for i in range(8)]
    worker.store.append([row(e) for e in many], 0)
    worker.step()
    before = in_redis(worker, many)
    more = [event("u1", i * SECOND, "view") for i in range(8, 15)]
    other = event("u2", 0, "view")
    worker.store.append([row(e) for e in (*more, other)], 0)
    worker.step()
    assert worker.oversized == {"u1"}
    assert in_redis(worker, many) == before
    assert in_redis(worker, [other])["user", ("u2",)]["n_views"] == 1


def test_what_was_acknowledged_outlives_the_process_and_counts_once(tmp_path):
    assert EventRow._fields == COLUMNS
    ours = Settings(data=tmp_path)
    rows = [row(event("u1", i, "view")) for i in range(3)]
    with LiveStore(ours) as store:
        assert store.append([*rows, rows[0]], 0) == ["new"] * 3 + ["duplicate"]
    with LiveStore(ours) as store:
        assert store.append(rows, 0) == ["duplicate"] * 3
        changed = rows[0]._replace(event_type="scroll")
        assert store.append([changed], 0) == ["conflict"]
        assert store.events_after(0, 10) == (rows, 3)
        assert store.newest_us() == START + 2
