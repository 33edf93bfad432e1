"""Every feature by the clock of a shop: the same in batch, increments, live and on Spark."""

import shutil
from datetime import UTC, datetime
from importlib.util import find_spec

import duckdb
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as how
from hypothesis import strategies as st

from nextbuy.features import TABLES
from nextbuy.features.request_features import at_request
from nextbuy.live.features import LiveFeatures
from nextbuy.settings import Settings
from nextbuy.shop import DEFAULTS, ShopRecord, ShopSettings, write_record
from nextbuy.shop_clock import shop_clock
from nextbuy.times import DAY, HOUR, SECOND, to_us
from nextbuy.versioned_table import files, manifest
from tests.nextbuy.histories import CONFIG, START, computed, event, histories
from tests.nextbuy.reference import Reference
from tests.nextbuy.test_incremental import build, days_of, difference, publish, tables

AROUND = {
    "Europe/Berlin": ("2024-03-20", "2024-10-15"),  # forward and back at night
    "America/New_York": ("2024-02-25", "2024-10-20"),
    "Australia/Lord_Howe": ("2024-03-25",),  # half an hour
    "America/Sao_Paulo": ("2018-10-25",),  # forward at midnight
    "America/Havana": ("2024-10-20",),  # back to midnight
    "Africa/Casablanca": ("2024-03-01",),  # back and forward for Ramadan
    "Pacific/Apia": ("2011-12-20",),  # a day left out
    "Asia/Kolkata": ("2024-01-01",),
    "Pacific/Kiritimati": ("2024-01-01",),  # 14 hours ahead
}
"""Zone -> first days of histories in which its clock changes."""
BY_CLOCK = [table for table in TABLES if table.name in ("user", "session", "item", "category")]
UNSHRUNK = (Phase.explicit, Phase.generate)  # a smaller history takes minutes to look for
SLOW = how(
    phases=UNSHRUNK,
    max_examples=9,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@st.composite
def shops(draw):
    """A shop's settings, and a history around a change of its clock."""
    zone = draw(st.sampled_from(sorted(AROUND)))
    begin = to_us(datetime.fromisoformat(draw(st.sampled_from(AROUND[zone]))))
    return moved(draw(histories(most=25)), begin), of_zone(zone)


def moved(events, begin_us):
    """The history, begun at another moment."""
    return [e | {"event_us": e["event_us"] - START + begin_us} for e in events]


def of_zone(zone):
    return ShopSettings(sessions=CONFIG, time_zone=zone)


def spanned(shop, events):
    """The clock for the days of a history; the same for all that begin on one day."""
    first = min(us for us in (e["event_us"] for e in events)) // (60 * DAY) * 60 * DAY
    return shop_clock(shop.time_zone).between(first, first + 120 * DAY)


def shop_in(folder, shop):
    """A data folder whose record has these settings."""
    data = Settings(data=folder, threads=1)
    write_record(data, ShopRecord(settings=shop))
    return data


@SLOW
@given(shops())
def test_features_agree_with_the_reference_by_zoneinfo(drawn):
    events, shop = drawn
    reference = Reference(events, CONFIG, shop.time_zone)
    for name, rows in computed(events, BY_CLOCK, spanned(shop, events)).items():
        for key, values in rows.items():
            expected = getattr(reference, name)(*key)
            for feature, value in values.items():
                right = expected[feature]
                if isinstance(right, float):
                    right = pytest.approx(right, rel=1e-12)
                assert value == right, f"{name}.{feature} at {key} in {shop.time_zone}"


@SLOW
@given(shops())
def test_items_and_categories_are_stamped_at_the_shop_s_midnights(drawn):
    """A day ends when the clock has passed all of it: then, and only then, it is in."""
    events, shop = drawn
    clock = shop_clock(shop.time_zone)
    for name in ("item", "category"):
        for _, stamp in computed(events, BY_CLOCK, spanned(shop, events))[name]:
            assert clock.day(stamp - 1) < clock.day(stamp)


@SLOW
@given(shops(), st.data())
def test_no_feature_knows_the_future_by_any_clock(drawn, data):
    events, shop = drawn
    clock = shop_clock(shop.time_zone)
    moments = sorted({e["event_us"] for e in events})
    cut = data.draw(
        st.sampled_from([*moments, *(clock.midnight(clock.day(us) + n) for us in moments
                                     for n in (0, 1))])
    )  # fmt: skip
    whole = computed(events, BY_CLOCK, spanned(shop, events))
    known = computed([e for e in events if e["event_us"] <= cut], BY_CLOCK, spanned(shop, events))
    for name, rows in whole.items():
        for key, values in rows.items():
            if key[-1] <= cut:
                assert known[name].get(key) == values, f"{name} at {key} knows what came later"


@how(
    phases=UNSHRUNK,
    max_examples=5,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(shops(), st.data())
def test_an_increment_gives_the_bytes_of_a_whole_build(tmp_path_factory, drawn, data):
    events, shop = drawn
    events = sorted(events, key=lambda e: (e["event_us"], e["event_id"]))
    first = events[: data.draw(st.integers(1, len(events)))]
    folder = tmp_path_factory.mktemp("zone")
    grown, whole = shop_in(folder / "grown", shop), shop_in(folder / "whole", shop)
    for step in (first, events):
        publish(grown, step)
        build(grown)
    publish(whole, events)
    build(whole)
    for expected, table in zip(tables(whole), tables(grown), strict=True):
        one, other = manifest(expected), manifest(table)
        assert one.days.keys() == other.days.keys(), table.name
        for day, digest in one.days.items():
            assert other.days[day] == digest, difference(expected, table, day)


def test_a_view_of_late_evening_counts_for_its_own_day(tmp_path):
    """Berlin, 2024-06-10: 23:30 is 21:30 UTC, the day ends at 22:00 UTC."""
    evening = to_us(datetime(2024, 6, 10, 21, 30, tzinfo=UTC)) - START
    data = shop_in(tmp_path, of_zone("Europe/Berlin"))
    publish(data, [event("u1", evening, "view"), event("u1", evening + 3 * DAY, "view", "i2")])
    build(data)
    item, session = (data.features / name for name in ("item", "session"))
    rows = duckdb.sql(
        f"SELECT epoch_us(event_timestamp), n_views_1d FROM '{files(item)}' "
        "WHERE item_id = 'i1' ORDER BY 1"
    ).fetchall()
    ten = to_us(datetime(2024, 6, 10, 22, tzinfo=UTC))
    assert rows[:2] == [(ten, 1), (ten + DAY, 0)]
    ((hour, weekday),) = duckdb.sql(
        f"SELECT entry_hour, entry_weekday FROM '{files(session)}' ORDER BY event_timestamp LIMIT 1"
    ).fetchall()
    assert (hour, weekday) == (23, 0)
    assert manifest(item).info == {"time_zone": "Europe/Berlin"}


def test_another_zone_builds_the_features_anew_and_utc_leaves_no_trace(tmp_path):
    data = Settings(data=tmp_path, threads=1)
    publish(data, [event("u1", 23 * HOUR, "view"), event("u1", 5 * DAY, "view")])
    build(data)
    before = days_of(data)
    assert manifest(data.features / "item").info == {}
    write_record(data, ShopRecord(settings=ShopSettings(sessions=CONFIG, time_zone="Asia/Tokyo")))
    assert set(build(data)) == {table.name for table in TABLES}
    assert days_of(data)["item"].keys() == before["item"].keys()
    assert days_of(data)["item"] != before["item"]
    write_record(data, ShopRecord(settings=ShopSettings(sessions=CONFIG)))
    build(data)
    assert {t: {d: c for d, (c, _) in days.items()} for t, days in days_of(data).items()} == {
        t: {d: c for d, (c, _) in days.items()} for t, days in before.items()
    }


def test_the_live_path_reads_the_same_clock():
    """A session that began at 23:30 in Berlin, on a Sunday; in UTC it is 22:30."""
    shop = of_zone("Europe/Berlin")
    events = [event("u1", 21 * DAY - 90 * 60 * SECOND, "view"), event("u1", 40 * DAY, "view")]
    live = LiveFeatures(TABLES[:1], CONFIG, clock=shop_clock(shop.time_zone))
    assert TABLES[0].name == "user"
    import pyarrow as pa

    from nextbuy.events import COMPUTED_SCHEMA

    live.cache(["u1"], pa.Table.from_pylist(events, schema=COMPUTED_SCHEMA))
    (row,) = live.rows({"u1": 0})["user"].to_pylist()
    expected = computed(events, TABLES[:1], shop_clock(shop.time_zone))["user"][
        ("u1", START + 40 * DAY)
    ]
    for name in ("rate_weekend_sessions", "rate_night_sessions", "rate_evening_sessions"):
        assert row[name] == expected[name]
    assert row["rate_evening_sessions"] == 0.5


def test_a_request_is_dated_by_the_same_clock():
    seconds = int(datetime(2024, 10, 27, 0, 30, tzinfo=UTC).timestamp())
    inputs = {"request_seconds": [seconds, seconds + 3600], "last_event_seconds": [None, None]}
    berlin = at_request(inputs, shop_clock("Europe/Berlin"))
    assert berlin["request_hour"] == [2, 2]  # the hour that comes twice
    assert at_request(inputs, shop_clock(DEFAULTS.time_zone))["request_hour"] == [0, 1]


@pytest.mark.skipif(find_spec("pyspark") is None, reason="requirements/spark.lock not installed")
@pytest.mark.skipif(shutil.which("java") is None, reason="no java on PATH")
def test_spark_reads_the_same_clock(tmp_path):
    from nextbuy.tables.spark import spark_engine

    data = shop_in(tmp_path, of_zone("Europe/Berlin"))
    data = data.model_copy(update={"spark_master": "local[1]"})
    begin = to_us(datetime(2024, 3, 20, tzinfo=UTC))
    events = [
        event(f"u{i % 3}", i * 17 * HOUR, "view", f"i{i % 4}", category="c1", price=100 + i)
        for i in range(60)
    ]
    publish(data, moved(events, begin))
    build(data)
    expected = {table: manifest(table) for table in tables(data)}
    shutil.rmtree(data.features)
    with spark_engine(data) as compute:
        build(data, compute)
    for table, one in expected.items():
        assert manifest(table) == one, table.name
