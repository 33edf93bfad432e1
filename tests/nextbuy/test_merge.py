"""Live events become published ones, and published ones reach the live store, day by day."""

import pyarrow as pa
import pytest

from nextbuy.errors import NextbuyError
from nextbuy.live.event_store import EventRow, LiveStore
from nextbuy.live.merge import publish as publish_staged
from nextbuy.live.merge import stage_live_events
from nextbuy.live.sync import sync
from nextbuy.settings import Settings
from nextbuy.times import DAY, HOUR
from nextbuy.versioned_table import manifest
from tests.nextbuy.histories import START, event
from tests.nextbuy.test_incremental import build, publish

PUBLISHED = [event(f"u{i % 3}", i * DAY + HOUR, "view", f"i{i}", price=100) for i in range(6)]
LIVE = [
    *(event("u1", 5 * DAY + (2 + i) * HOUR, "view", f"i{i}", price=50) for i in range(3)),
    event("u9", 7 * DAY, "purchase", "i1", price=70),
]


def merge_live(settings, check=lambda new: None):
    """As the verb does: stage, check, publish; returns how many events were new."""
    with stage_live_events(settings) as staged:
        if staged.count:
            check(staged.file)
        publish_staged(staged)
    return staged.count


def row(e):
    return EventRow(**e)


@pytest.fixture
def shop(tmp_path):
    """Six days published, of which the live store knows; four events that came live."""
    settings = Settings(data=tmp_path / "live", threads=1)
    publish(settings, PUBLISHED)
    with LiveStore(settings) as store:
        assert sync(settings, store, lambda _: None) == 6
        store.append([row(e) for e in (*LIVE, PUBLISHED[0])], 0)
    return settings


def test_merged_events_give_the_tables_of_one_log_of_both(shop, tmp_path):
    before = manifest(shop.events).days
    assert merge_live(shop) == 4
    after = manifest(shop.events).days
    changed = {day for day in after if after[day] != before.get(day)}
    assert changed == {"2024-01-06", "2024-01-08"}
    assert merge_live(shop) == 0
    build(shop)
    whole = Settings(data=tmp_path / "whole", threads=1)
    publish(whole, [*PUBLISHED, *LIVE])
    build(whole)
    for table in ("events", "sessions", "labels", "features/user", "features/user_item"):
        assert manifest(shop.data / table).days == manifest(whole.data / table).days, table


def test_events_that_a_check_refuses_stay_live_alone(shop):
    before = shop.events.resolve()
    looked = []

    def refuse(new):
        looked.append(pa.parquet.read_table(new).num_rows)
        raise NextbuyError("not these")

    with pytest.raises(NextbuyError, match="not these"):
        merge_live(shop, check=refuse)
    assert looked == [4]
    assert shop.events.resolve() == before
    assert merge_live(shop) == 4


def test_without_a_log_there_is_nothing_to_add_to(tmp_path):
    with pytest.raises(NextbuyError, match="nextbuy ingest"):
        merge_live(Settings(data=tmp_path))


def test_only_changed_days_are_read_after_a_publication(shop):
    merge_live(shop)
    with LiveStore(shop) as store:
        # One event of the sixth day was published before, three more and one of a new day came.
        assert sync(shop, store, lambda _: None) == 5
        assert sync(shop, store, lambda _: None) == 0
        assert store.sizes(["u0", "u1", "u2", "u9"]) == {"u0": 2, "u1": 5, "u2": 2, "u9": 1}


def test_replaced_and_vanished_events_reach_the_live_store(shop):
    corrected = {**PUBLISHED[1], "price": 7}
    publish(shop, [PUBLISHED[0], corrected, *PUBLISHED[3:]])
    with LiveStore(shop) as store:
        sync(shop, store, lambda _: None)
        kept = dict(store.sql.execute("SELECT event_id, price FROM events WHERE seq IS NULL"))
        assert kept[corrected["event_id"]] == 7
        assert PUBLISHED[2]["event_id"] not in kept
        assert len(kept) == 5
        assert store.newest_us() == START + 7 * DAY
