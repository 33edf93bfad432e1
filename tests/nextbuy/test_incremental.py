"""An increment gives the bytes of a full rebuild, and writes no day that stayed the same."""

from datetime import UTC, datetime

import duckdb
import pyarrow as pa
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st

from nextbuy.events import EVENT_SCHEMA
from nextbuy.features import TABLES
from nextbuy.settings import Settings
from nextbuy.shop import LabelConfig
from nextbuy.times import DAY, HOUR, MINUTE
from nextbuy.versioned_table import manifest
from tests.nextbuy.histories import CONFIG, event, histories
from tests.shop import publish_events
from tests.tables import build_features, build_labels, build_sessions

LABELS = LabelConfig(horizon_days=5)


def publish(data, events):
    """Write `events/`, days that stay equal kept or not: an increment must not care."""
    rows = [
        {name: e[name] for name in EVENT_SCHEMA.names if name != "event_time"}
        | {"event_time": datetime.fromtimestamp(e["event_us"] / 1e6, UTC)}
        for e in events
    ]
    publish_events(pa.Table.from_pylist(rows, schema=EVENT_SCHEMA), data)


def build(data, compute=None):
    """All tables; returns the names of those that were written."""
    published = [
        build_sessions(data, CONFIG, compute),
        build_labels(data, LABELS, compute),
        *build_features(data, compute=compute),
    ]
    return [table.name for table in published if table.is_new]


def tables(data):
    return [data.sessions, data.labels, *(data.features / table.name for table in TABLES)]


def days_of(data):
    """Table -> day -> (bytes, inode)."""
    return {
        table.name: {
            path.parent.name: (path.read_bytes(), path.stat().st_ino)
            for path in table.resolve().glob("day=[0-9]*/part-0.parquet")
        }
        for table in tables(data)
    }


def assert_same_as_whole(folder, *steps):
    """Build after each step; the end must be what one build of the last step gives."""
    grown = Settings(data=folder / "grown", threads=1)
    before = {}
    for events in steps:
        publish(grown, events)
        build(grown)
        after = days_of(grown)
        for table, days in after.items():
            for day, (content, inode) in days.items():
                old = before.get(table, {}).get(day)
                if old and old[0] == content:
                    assert old[1] == inode, f"{table} {day} was written again for nothing"
        before = after
    whole = Settings(data=folder / "whole", threads=1)
    publish(whole, steps[-1])
    build(whole)
    for wanted, found in zip(tables(whole), tables(grown), strict=True):
        one, other = manifest(wanted), manifest(found)
        assert one.days.keys() == other.days.keys(), wanted.name
        for day, digest in one.days.items():
            assert other.days[day] == digest, difference(wanted, found, day)
        assert (one.rows, one.info) == (other.rows, other.info)


def difference(wanted, found, day):
    one, other = (f"'{t.resolve()}/day={day}/part-0.parquet'" for t in (wanted, found))
    rows = duckdb.sql(
        f"(SELECT 'whole', * FROM (FROM {one} EXCEPT ALL FROM {other})) UNION ALL "
        f"(SELECT 'increment', * FROM (FROM {other} EXCEPT ALL FROM {one}))"
    ).fetchall()
    return f"{wanted.name} {day}: {rows[:4]}"


@how(
    max_examples=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(histories(most=30), st.data())
def test_any_split_of_any_history_ends_in_the_same_bytes(tmp_path_factory, events, data):
    """A new day and late events alike: any part first, in any order."""
    events = sorted(events, key=lambda e: (e["event_us"], e["event_id"]))
    if data.draw(st.booleans(), label="by time"):
        cut = data.draw(st.integers(1, len(events)))
        first = events[:cut]
    else:
        kept = data.draw(st.sets(st.sampled_from(range(len(events))), min_size=1))
        first = [events[i] for i in sorted(kept)]
    assert_same_as_whole(tmp_path_factory.mktemp("split"), first, events)


def views(user, *days, item="i1"):
    return [event(user, day * DAY + HOUR, "view", item, price=100) for day in days]


def test_a_new_day_leaves_every_earlier_day_of_the_shoppers_tables(tmp_path):
    data = Settings(data=tmp_path, threads=1)
    events = [*views("u1", 0, 3, 9), *views("u2", 1, 9)]
    publish(data, events)
    build(data)
    before = days_of(data)
    publish(data, [*events, *views("u1", 10)])
    build(data)
    after = days_of(data)
    for table in ("sessions", "user", "session", "user_item", "recent_items"):
        assert after[table].keys() - before[table].keys() == {"day=2024-01-11"}
        for day, content in before[table].items():
            assert after[table][day] == content, (table, day)
    # Two midnights came to an end: those after days 8 (nothing changes) and 9.
    assert after["item"].keys() - before["item"].keys() == {"day=2024-01-11"}


def test_a_late_event_changes_its_shopper_and_nobody_else(tmp_path):
    events = [*views("u1", 0, 5), *views("u2", 2, 6)]
    late = event("u1", 3 * DAY, "purchase", "i2", price=500)
    assert_same_as_whole(tmp_path, events, [*events, late])
    data = Settings(data=tmp_path / "grown")
    rows = duckdb.sql(
        f"SELECT user_id FROM '{data.features.resolve()}/user/*/*.parquet' WHERE n_purchases = 1"
    ).fetchall()
    assert rows == [("u1",)] * 2


def test_a_late_event_that_joins_two_sessions(tmp_path):
    first = [event("u1", DAY - 40 * MINUTE, "view"), event("u1", DAY + 10 * MINUTE, "view")]
    bridge = event("u1", DAY - 15 * MINUTE, "view")
    assert_same_as_whole(tmp_path, first, [*first, bridge])


def test_a_late_log_in_takes_a_visitors_past_from_another_shopper(tmp_path):
    past = [event("a1", i * MINUTE, "view", source_session_id="s1") for i in range(3)]
    login = event("u2", HOUR, "login", source_session_id="s1")
    late = event("u1", HOUR // 2, "login", source_session_id="s1")
    rest = views("u2", 4)
    assert_same_as_whole(tmp_path, [*past, login, *rest], [*past, login, late, *rest])


def test_a_late_shopper_who_crowds_a_shop_session_ends_the_links_of_others(tmp_path):
    past = [event("a1", i * MINUTE, "view", source_session_id="0") for i in range(3)]
    login = event("u1", HOUR, "login", source_session_id="0")
    rest = views("u1", 4) + views("u3", 1)
    late = event("u3", HOUR // 2, "view", source_session_id="0")  # the third, of two there can be
    assert_same_as_whole(tmp_path, [*past, login, *rest], [*past, login, late, *rest])
    grown = Settings(data=tmp_path / "grown")
    rows = duckdb.sql(
        f"SELECT max(n_views) FROM '{grown.features.resolve()}/user/*/*.parquet' "
        "WHERE user_id = 'u1'"
    ).fetchall()
    assert rows == [(1,)]  # without the visitor's three


def test_three_steps_and_events_taken_away(tmp_path):
    steps = [views("u1", *range(n)) + views("u2", *range(0, n, 3)) for n in (3, 40, 20)]
    assert_same_as_whole(tmp_path, *steps)


def test_sessions_made_twice_in_between_lead_to_a_whole_build(tmp_path):
    data = Settings(data=tmp_path / "data", threads=1)
    for n in (3, 5):
        publish(data, views("u1", *range(n)))
        build_sessions(data, CONFIG)
        if n == 3:
            build(data)
    publish(data, views("u1", *range(8)))
    build(data)
    got = {table.name: manifest(table).days for table in tables(data)}
    whole = Settings(data=tmp_path / "whole", threads=1)
    publish(whole, views("u1", *range(8)))
    build(whole)
    assert got == {table.name: manifest(table).days for table in tables(whole)}


def test_nothing_new_writes_nothing(tmp_path):
    data = Settings(data=tmp_path, threads=1)
    publish(data, views("u1", 0, 1))
    assert set(build(data)) == {table.name for table in tables(data)}
    assert build(data) == []


def test_what_lies_beyond_the_longest_window_is_carried_on(tmp_path):
    old = views("u1", 0, item="i2") + views("u2", 1, 2)
    first = old + views("u3", 50, 51)
    # The old items come again: their lifetime counts and last prices go on from before.
    assert_same_as_whole(tmp_path, first, first + views("u3", 52, item="i2") + views("u1", 60))


def test_the_day_that_leaves_the_longest_window_is_within_reach(tmp_path):
    first = views("u1", 10) + views("u2", 40, item="i2")
    assert_same_as_whole(tmp_path, first, first + views("u2", 41, item="i2"))


def shop_days(days, shoppers=range(25)):
    """A shop large enough that a pause is no chance: every shopper views an item a day."""
    return [
        event(f"u{n}", day * DAY + n * MINUTE, "view", f"i{n % 3}")
        for day in days
        for n in shoppers
    ]


LATE = event("u1", 60 * DAY, "purchase", "i1", price=500)


def ends(folder, name="grown"):
    data = Settings(data=folder / name)
    sessions = manifest(data.sessions)
    labels = duckdb.sql(f"FROM '{data.labels.resolve()}/*/*.parquet'").df()
    return sessions, labels[labels["user_id"] != "u1"]


def test_a_late_clock_closes_no_label_and_moves_nothing(tmp_path):
    log = shop_days(range(8))
    assert_same_as_whole(tmp_path, log, [*log, LATE])
    sessions, labels = ends(tmp_path)
    assert sessions.info["newest_us"] == log[-1]["event_us"]
    assert sessions.info["strays"] == {"2024-03-01": 1}
    assert max(sessions.days) == "2024-01-08"
    assert labels["label"][labels["event_timestamp"] >= "2024-01-08"].isna().all()
    before = Settings(data=tmp_path / "before", threads=1)
    publish(before, log)
    build(before)
    with_stray = Settings(data=tmp_path / "grown")
    for one, other in zip(tables(before), tables(with_stray), strict=True):
        assert manifest(one).days == manifest(other).days, one.name


def test_a_stray_counts_once_the_log_has_reached_it(tmp_path):
    log = shop_days(range(8))
    later = shop_days(range(58, 64))
    assert_same_as_whole(tmp_path, log, [*log, LATE], [*log, LATE, *later])
    sessions, labels = ends(tmp_path)
    assert sessions.info["strays"] == {}
    assert sessions.info["newest_us"] == later[-1]["event_us"]
    bought = duckdb.sql(
        f"SELECT n_purchases FROM '{tmp_path}/grown/features/user/*/*.parquet' "
        "WHERE user_id = 'u1' ORDER BY event_timestamp DESC LIMIT 1"
    ).fetchall()
    assert bought == [(1,)]
    # Before the hole: what was open stays open, and what the hole makes doubtful opens.
    doubtful = labels["event_timestamp"].between("2024-01-04", "2024-01-09")
    assert labels["label"][doubtful].isna().all()
    assert not labels["label"][labels["event_timestamp"] < "2024-01-04"].isna().any()


def test_a_hole_that_is_filled_decides_its_labels_again(tmp_path):
    ends_and_begins = shop_days([*range(8), *range(58, 64)])
    whole = shop_days(range(64))
    assert_same_as_whole(tmp_path, ends_and_begins, whole, ends_and_begins)
    with_hole, _ = ends(tmp_path)
    assert len(with_hole.info["holes"]) == 1
    assert_same_as_whole(tmp_path / "filled", ends_and_begins, whole)
    sessions, labels = ends(tmp_path / "filled")
    assert sessions.info["holes"] == []
    assert not labels["label"][labels["event_timestamp"] < "2024-02-20"].isna().any()


def test_a_label_matures_by_time_alone(tmp_path):
    first = views("u1", 0) + views("u2", 2)
    assert_same_as_whole(tmp_path, first, first + views("u2", 7))
    label = duckdb.sql(
        f"SELECT label FROM '{tmp_path}/grown/labels/day=2024-01-01/*.parquet'"
    ).fetchall()
    assert label == [(0,)]
