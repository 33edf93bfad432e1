"""The shop's clock agrees with Python's zoneinfo, on every day that a clock changes."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import duckdb
import ibis
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nextbuy.features.local_time import hour_of, local_us, midnight, weekday_of
from nextbuy.shop_clock import LAST, UTC_CLOCK, shop_clock
from nextbuy.times import DAY, HOUR, MINUTE, SECOND, to_datetime, to_us

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Kolkata",  # half an hour off
    "Australia/Lord_Howe",  # half an hour of daylight saving
    "America/Sao_Paulo",  # went forward at midnight
    "America/Havana",  # goes back to midnight
    "America/St_Johns",  # went back over midnight: a day ended twice
    "Pacific/Apia",  # left a whole day out
    "Africa/Casablanca",  # goes back for Ramadan
    "Pacific/Kiritimati",
)
CHANGES = {zone: [step.start for step in shop_clock(zone).offsets] for zone in ZONES}
EPOCH_DAY = datetime(1970, 1, 1)  # noqa: DTZ001  # what a clock shows has no zone


@st.composite
def zone_and_moment(draw):
    """A zone and microseconds, half of them within three days of a change of its clock."""
    zone = draw(st.sampled_from(ZONES))
    anywhere = st.integers(to_us(datetime(1995, 1, 1, tzinfo=UTC)), to_us(LAST) - 1)
    near = st.builds(
        lambda change, off: change + off,
        st.sampled_from(CHANGES[zone][1:] or [0]),
        st.one_of(st.integers(-3 * DAY, 3 * DAY), st.sampled_from([-1, 0, 1, -HOUR, HOUR, DAY])),
    )
    return zone, draw(st.one_of(anywhere, near) if len(CHANGES[zone]) > 1 else anywhere)


def shown(zone, us):
    return to_datetime(us).astimezone(ZoneInfo(zone)).replace(tzinfo=None)


@settings(max_examples=600, deadline=None, derandomize=True)
@given(zone_and_moment())
def test_the_clock_shows_what_zoneinfo_shows(drawn):
    zone, us = drawn
    clock, local = shop_clock(zone), shown(zone, us)
    assert EPOCH_DAY + timedelta(microseconds=clock.local_us(us)) == local
    assert clock.day(us) == (local.date() - EPOCH_DAY.date()).days
    assert (clock.hour(us), clock.weekday(us)) == (local.hour, local.weekday())


@settings(max_examples=300, deadline=None, derandomize=True)
@given(zone_and_moment())
def test_a_midnight_parts_the_days_that_the_clock_shows(drawn):
    """All of an earlier day is before it; what comes from it on is of the day or a later one."""
    zone, us = drawn
    clock = shop_clock(zone)
    day = clock.day(us)
    border = clock.midnight(day + 1)
    assert us < border
    assert clock.day(border) >= day + 1
    for minutes in range(0, 2 * 24 * 60, 7):  # of the two days that follow
        assert clock.day(border + minutes * MINUTE) >= day + 1
    assert clock.day(border - 1) <= day
    assert clock.next_midnight(us) > us
    assert clock.next_midnight(us) <= border
    clean = clock.clean_day(day)
    assert all(clock.day(clock.midnight(clean) - n * MINUTE) < clean for n in range(1, 240))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.sampled_from(ZONES), st.data())
def test_every_engine_reads_the_same_clock(zone, data):
    clock = shop_clock(zone)
    near = [us for change in CHANGES[zone][1:] for us in (change - 1, change, change + HOUR)]
    moments = data.draw(st.lists(st.integers(788_918_400, 2_800_000_000), min_size=5, max_size=50))
    moments = [*near, *(second * SECOND for second in moments)]
    table = ibis.memtable({"us": moments, "day": [us // DAY for us in moments]})
    local = local_us(table.us, clock)
    sql = str(
        ibis.to_sql(
            table.select(
                "us", "day", local=local, hour=hour_of(local), weekday=weekday_of(local),
                midnight=midnight(table.day, clock),
            ),
            dialect="duckdb",
        )
    )  # fmt: skip
    with duckdb.connect() as engine:
        engine.register(table.get_name(), table.execute())
        rows = engine.execute(sql).fetchall()
        by_text = engine.execute(f"SELECT us, {clock.local_sql('us')} FROM ({sql})").fetchall()
    for us, day, shown_us, hour, weekday, border in rows:
        assert shown_us == clock.local_us(us)
        assert (hour, weekday) == (clock.hour(us), clock.weekday(us))
        assert border == clock.midnight(day)
    assert all(found == clock.local_us(us) for us, found in by_text)


@pytest.mark.parametrize(
    ("zone", "day", "hours"),
    [
        ("Europe/Berlin", "2024-03-31", 23),
        ("Europe/Berlin", "2024-10-27", 25),
        ("Europe/Berlin", "2024-10-28", 24),
        ("Australia/Lord_Howe", "2024-04-07", 24.5),
        ("Pacific/Apia", "2011-12-30", 0),  # there was none
        ("UTC", "2024-03-31", 24),
    ],
)
def test_a_day_has_the_hours_that_the_clock_gives_it(zone, day, hours):
    number = (datetime.fromisoformat(day).date() - EPOCH_DAY.date()).days
    clock = shop_clock(zone)
    assert (clock.midnight(number + 1) - clock.midnight(number)) / HOUR == hours


def test_midnight_in_berlin_is_a_moment_of_the_day_before():
    berlin = shop_clock("Europe/Berlin")
    number = (datetime(2024, 7, 1, tzinfo=UTC) - to_datetime(0)).days
    assert to_datetime(berlin.midnight(number)) == datetime(2024, 6, 30, 22, tzinfo=UTC)
    assert shop_clock("UTC") is UTC_CLOCK
