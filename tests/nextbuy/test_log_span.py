"""Where a log ends: the expected ends are read off the days, by a person."""

from datetime import UTC, date, datetime, timedelta

import duckdb
import pytest

from nextbuy.log_span import Hole, LogDay, LogSpan, log_span, read_span, wide_holes
from nextbuy.times import DAY, HOUR

FIRST = 19_000  # 2022-01-08


def days(*spans):
    """Days of a log from (first day, number of days, shoppers a day)."""
    return [
        LogDay(FIRST + day, shoppers, 3 * shoppers, (FIRST + day) * DAY, last_us(day))
        for start, count, shoppers in spans
        for day in range(start, start + count)
    ]


def last_us(day):
    return (FIRST + day) * DAY + 20 * HOUR


def end(found):
    return (found.end_us - 20 * HOUR) // DAY - FIRST


@pytest.mark.parametrize(
    ("strays", "events"),
    [
        ([(484, 1, 1)], 3),  # one device, sixteen months ahead
        ([(30, 1, 1)], 3),
        ([(24, 1, 2)], 6),  # four days after the last one
        ([(60, 1, 1), (200, 1, 1)], 6),  # two clocks
        ([(50, 60, 1)], 180),  # a device that goes on in its own time
        ([(90, 1, 9)], 27),  # less than a tenth of a day's shoppers
    ],
)
def test_strays_do_not_end_a_log(strays, events):
    found = log_span(days((0, 20, 100), *strays))
    assert end(found) == 19
    assert found.n_strays == events
    assert found.holes == ()


def test_a_feed_that_was_down_for_a_month_goes_on_with_the_first_tenth_of_a_day():
    hole = (last_us(19), (FIRST + 50) * DAY)
    for shoppers in (10, 100):
        found = log_span(days((0, 20, 100), (50, 1, shoppers)))
        assert end(found) == 50
        assert found.holes == (Hole(*hole),)
        assert found.strays == {}
    assert end(log_span(days((0, 20, 100), (50, 30, 5)))) == 79  # slowly: as many as in a day
    assert end(log_span(days((0, 20, 100), (50, 1, 9)))) == 19


def test_a_stray_inside_a_hole_does_not_divide_it():
    found = log_span(days((0, 20, 100), (35, 1, 1), (50, 5, 100)))
    assert found.holes == (Hole(last_us(19), (FIRST + 50) * DAY),)
    assert end(found) == 54


@pytest.mark.parametrize(
    "spans",
    [
        [(0, 20, 100), (20, 1, 1)],  # the first minutes of a new day
        [(0, 20, 100), (22, 1, 1)],  # a short pause
        [(0, 5, 100), (7, 5, 100), (14, 5, 100), (21, 1, 2)],  # closed at weekends
        [(0, 1, 1), (31, 1, 1)],  # nobody knows what is usual
        [(0, 3, 1), (7, 1, 1)],  # a shopper a day may stay away for some days
        [(0, 60, 100), (60, 300, 2), (362, 1, 2)],  # a shop that shrank
        [(0, 400, 1), (400, 30, 500)],  # a shop that grew
        [(n * 10, 1, 50) for n in range(20)],  # one market day in ten
    ],
)
def test_an_unusual_log_is_a_log_all_the_same(spans):
    found = log_span(days(*spans))
    assert end(found) == spans[-1][0] + spans[-1][1] - 1
    assert found.holes == ()
    assert found.strays == {}


def test_a_day_without_others_needs_a_mass_of_its_own():
    assert end(log_span(days((0, 1, 500), (40, 1, 1)))) == 0
    assert end(log_span(days((0, 1, 2), (40, 1, 1)))) == 40


def test_what_the_source_vouches_for_is_no_stray():
    log = days((0, 20, 100), (60, 1, 1), (90, 1, 1))
    found = log_span(log, vouched_us=(FIRST + 70) * DAY)
    assert end(found) == 60
    assert found.holes == (Hole(last_us(19), (FIRST + 60) * DAY),)
    assert found.n_strays == 3


def test_a_relation_of_events_is_counted_by_its_shoppers():
    first = datetime(2024, 3, 1, 10, tzinfo=UTC)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            "CREATE TABLE events AS SELECT 'u' || n % 30 AS user_id, 'e' || n AS event_id, "
            f"TIMESTAMPTZ '{first.isoformat()}' + INTERVAL (n // 100) DAY AS event_time "
            "FROM range(500) t(n) UNION ALL "  # a hundred events of thirty shoppers a day
            "SELECT 'late', 'late' || n, TIMESTAMPTZ '2025-06-30 12:00:00+00' FROM range(99) t(n)"
        )
        found = read_span(connection, "events")
    assert found.end == first + timedelta(days=4)
    assert found.strays == {date(2025, 6, 30).isoformat(): 99}
    assert LogSpan.from_info(found.info) == found


def test_a_hole_shorter_than_a_quarter_of_the_horizon_is_narrow():
    week, day = Hole(0, 7 * DAY), Hole(0, DAY)
    assert wide_holes([week, day], 28 * DAY) == [week]
    assert wide_holes([week, day], 4 * DAY) == [week, day]
    assert wide_holes([week, day], 29 * DAY) == []
