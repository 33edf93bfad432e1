"""Local times on the two days a year on which the clock changes. Germany, 2024.

On 31 March the clock goes from 02:00 to 03:00 (01:00 UTC), on 27 October from 03:00 back to 02:00
(01:00 UTC as well): 02:10 is then 00:10 UTC, and an hour later 01:10 UTC.
"""

from datetime import UTC, datetime

import pytest

from nextbuy.settings import Settings
from tests.nextbuy.small_log import event_rows, ingest, log, quarantined, reconciles, shop

BERLIN = {"time": {"format": "iso", "zone": "Europe/Berlin"}}


def berlin(tmp_path, *rows, **source):
    """Ingest rows of (shopper, local time, item); returns the report and the UTC times by item."""
    settings = Settings(data=tmp_path / "data", threads=1)
    lines = [f"{user},{at},pv,{item}," for user, at, item in rows]
    report = ingest([log(tmp_path / "log.csv", *lines)], shop(**BERLIN, **source), settings)
    assert reconciles(report, settings)
    return report, {row["item_id"]: f"{row['event_time']:%H:%M}" for row in event_rows(settings)}


def test_a_time_that_the_clock_never_showed_is_refused_and_counted(tmp_path):
    report, times = berlin(
        tmp_path,
        ("u1", "2024-03-31 01:59:59", "before"),
        ("u1", "2024-03-31 02:00:00", "first"),
        ("u1", "2024-03-31 02:30:00", "inside"),
        ("u1", "2024-03-31 02:59:59", "last"),
        ("u1", "2024-03-31 03:00:00", "after"),
        limits={"max_bad_share": 0.7},
    )
    assert times == {"before": "00:59", "after": "01:00"}
    assert report.quarantined == {"nonexistent_time": 3}
    assert [row["value"] for row in quarantined(report)] == [
        "2024-03-31 02:00:00", "2024-03-31 02:30:00", "2024-03-31 02:59:59",
    ]  # fmt: skip
    assert "Etc/GMT-1" in str(report)


def test_the_order_of_the_log_tells_which_of_the_two_hours_it_was(tmp_path):
    report, times = berlin(
        tmp_path,
        ("u1", "2024-10-27 01:50:00", "a"),
        ("u2", "2024-10-27 02:10:00", "b"),
        ("u1", "2024-10-27 02:50:00", "c"),
        ("u2", "2024-10-27 02:05:00", "d"),  # the clock went back
        ("u1", "2024-10-27 02:50:00", "e"),
        ("u2", "2024-10-27 03:01:00", "f"),
    )
    assert times == {
        "a": "23:50", "b": "00:10", "c": "00:50", "d": "01:05", "e": "01:50", "f": "02:01",
    }  # fmt: skip
    assert report.repeated_hours == (4, 0)
    assert "4 rows in an hour that the clock repeats: 4 placed by the order" in str(report)


def test_a_log_sorted_by_shopper_is_read_shopper_by_shopper(tmp_path):
    report, times = berlin(
        tmp_path,
        ("u1", "2024-10-27 02:40:00", "a"),
        ("u1", "2024-10-27 02:20:00", "b"),
        ("u1", "2024-10-27 09:00:00", "c"),
        ("u2", "2024-10-27 01:30:00", "d"),
        ("u2", "2024-10-27 02:30:00", "e"),  # nothing tells which
        ("u2", "2024-10-27 12:00:00", "f"),
    )
    assert (times["a"], times["b"], times["e"]) == ("00:40", "01:20", "01:30")
    assert report.repeated_hours == (2, 1)
    assert "1 taken to be in the second hour, for no order tells" in str(report)


def test_a_log_that_is_a_little_out_of_order_still_tells(tmp_path):
    """Rows a minute late are no change of the clock; a jump of most of an hour is."""
    report, times = berlin(
        tmp_path,
        ("u1", "2024-10-27 01:30:00", "a"),
        ("u2", "2024-10-27 01:29:00", "b"),  # late by a minute
        ("u1", "2024-10-27 02:20:00", "c"),
        ("u2", "2024-10-27 02:19:00", "d"),  # late by a minute: still the first hour
        ("u1", "2024-10-27 02:58:00", "e"),
        ("u2", "2024-10-27 02:03:00", "f"),
    )
    assert {k: times[k] for k in "cdef"} == {"c": "00:20", "d": "00:19", "e": "00:58", "f": "01:03"}
    assert report.repeated_hours == (4, 0)


@pytest.mark.parametrize(
    "rows",
    [
        [("u1", "2024-10-27 02:10:00", "a")],
        # no jump back in the hour itself
        [("u1", "2024-10-27 02:10:00", "a"), ("u1", "2024-10-27 02:40:00", "b")],
        # in no order at all
        [("u1", "2024-10-27 20:10:00", "x"), ("u1", "2024-10-27 02:10:00", "a"),
         ("u1", "2024-10-27 05:10:00", "y"), ("u1", "2024-10-27 02:05:00", "b")],
        # goes back twice
        [("u1", "2024-10-27 02:40:00", "a"), ("u1", "2024-10-27 02:20:00", "b"),
         ("u1", "2024-10-27 02:10:00", "c")],
    ],
)  # fmt: skip
def test_where_no_order_tells_all_are_in_the_second_hour_and_it_is_said(tmp_path, rows):
    report, times = berlin(tmp_path, *rows)
    repeated = [(at, item) for _, at, item in rows if " 02:" in at]
    assert report.repeated_hours == (0, len(repeated))
    for at, item in repeated:
        assert times[item] == f"01:{at[-5:-3]}"


def test_a_time_with_its_own_offset_is_never_in_doubt(tmp_path):
    report, times = berlin(
        tmp_path,
        ("u1", "2024-10-27T02:10:00+02:00", "a"),
        ("u1", "2024-10-27T02:05:00+01:00", "b"),
        ("u1", "2024-03-31T02:30:00Z", "c"),
    )
    assert times == {"a": "00:10", "b": "01:05", "c": "02:30"}
    assert report.repeated_hours == (0, 0)


def test_the_same_log_again_changes_nothing_and_an_id_follows_the_moment(tmp_path):
    rows = [
        ("u1", "2024-10-27 02:40:00", "i"),
        ("u1", "2024-10-27 02:20:00", "j"),
        ("u1", "2024-10-27 02:40:00", "i"),  # the same words, an hour later: another event
    ]
    first, _ = berlin(tmp_path, *rows)
    assert first.published == 3
    settings = Settings(data=tmp_path / "data", threads=1)
    again = ingest([tmp_path / "log.csv"], shop(**BERLIN), settings)
    assert (again.published, again.already_present) == (0, 3)


def test_ids_of_the_log_s_own_stay_as_they_are(tmp_path):
    settings = Settings(data=tmp_path / "data", threads=1)
    file = log(
        tmp_path / "log.csv",
        "e1,u1,2024-10-27 02:40:00,pv,i1,", "e2,u1,2024-10-27 02:20:00,pv,i2,",
        header="id,user,at,what,sku,price",
    )  # fmt: skip
    fields = {"event_id": "id", "user_id": "user", "event_time": "at", "event_type": "what",
              "item_id": "sku", "price": "price"}  # fmt: skip
    ingest([file], shop(**BERLIN, fields=fields), settings)
    assert [(r["event_id"], r["event_time"]) for r in event_rows(settings)] == [
        ("e1", datetime(2024, 10, 27, 0, 40, tzinfo=UTC)),
        ("e2", datetime(2024, 10, 27, 1, 20, tzinfo=UTC)),
    ]


def test_half_an_hour_of_daylight_saving(tmp_path):
    """Lord Howe, 7 April 2024: at 02:00 (+11:00) back to 01:30 (+10:30), which is 15:00 UTC."""
    settings = Settings(data=tmp_path / "data", threads=1)
    zone = {"time": {"format": "iso", "zone": "Australia/Lord_Howe"}}
    file = log(
        tmp_path / "log.csv",
        "u1,2024-04-07 01:29:00,pv,a,", "u1,2024-04-07 01:50:00,pv,b,",
        "u1,2024-04-07 01:35:00,pv,c,", "u1,2024-04-07 02:00:00,pv,d,",
    )  # fmt: skip
    report = ingest([file], shop(**zone), settings)
    assert report.repeated_hours == (2, 0)
    assert [f"{row['event_time']:%H:%M}" for row in event_rows(settings)] == [
        "14:29", "14:50", "15:05", "15:30",
    ]  # fmt: skip
