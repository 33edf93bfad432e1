"""A log with a late clock: ingest names it, the mapping's `not_after` overrides."""

import pytest

from nextbuy.log_span import VOUCHED
from nextbuy.settings import Settings
from nextbuy.shop import SessionConfig
from nextbuy.versioned_table import manifest
from tests.nextbuy.small_log import event_rows, ingest, log, shop
from tests.tables import build_sessions

THREE_DAYS = (
    "ann,2024-03-01 10:00:00,pv,lamp,10",
    "bob,2024-03-02 10:00:00,pv,lamp,10",
    "cat,2024-03-03 10:00:00,pv,rug,10",
)
LATE = "dan,2025-06-30 12:00:00,pv,lamp,10"


@pytest.fixture
def settings(tmp_path):
    return Settings(data=tmp_path / "data")


def newest(settings):
    """The end of the log, in whole seconds as text."""
    from nextbuy.times import to_datetime

    build_sessions(settings, SessionConfig())
    return f"{to_datetime(manifest(settings.sessions).info['newest_us']):%Y-%m-%d %H:%M:%S}"


def test_a_late_clock_is_named_and_kept_out(tmp_path, settings):
    report = ingest([log(tmp_path / "l.csv", *THREE_DAYS, LATE)], shop(), settings)
    assert report.published == 4
    told = str(report)
    assert "1 after the end of the log (2024-03-03 10:00 UTC)" in told
    assert "shopper dan" in told
    assert "2025-06-30 12:00 UTC, 484.1 days later" in told
    assert "limits.not_after" in told
    assert newest(settings) == "2024-03-03 10:00:00"
    assert manifest(settings.sessions).rows == 3


def test_a_log_that_ends_as_it_should_has_no_strays(tmp_path, settings):
    assert "stray" not in str(ingest([log(tmp_path / "l.csv", *THREE_DAYS)], shop(), settings))


def test_strays_that_are_published_are_named_with_each_new_log(tmp_path, settings):
    ingest([log(tmp_path / "a.csv", *THREE_DAYS, LATE)], shop(), settings)
    more = "cat,2024-03-04 10:00:00,pv,rug,10"
    assert "shopper dan" in str(ingest([log(tmp_path / "b.csv", more)], shop(), settings))
    assert newest(settings) == "2024-03-04 10:00:00"


def test_events_after_not_after_are_refused(tmp_path, settings):
    limits = {"not_after": "2024-03-31T00:00:00Z", "max_bad_share": 0.5}
    path = log(tmp_path / "l.csv", *THREE_DAYS, LATE)
    report = ingest([path], shop(limits=limits), settings)
    assert report.quarantined == {"time_after_end": 1}
    assert "stray" not in str(report)
    assert [row["user_id"] for row in event_rows(settings)] == ["ann", "bob", "cat"]


def test_a_source_that_vouches_for_its_events_has_no_strays(tmp_path, settings):
    path = log(tmp_path / "l.csv", *THREE_DAYS, LATE)
    ingest([path], shop(), settings)
    assert newest(settings) == "2024-03-03 10:00:00"
    limits = {"not_after": "2025-07-01T00:00:00Z", "max_bad_share": 0.5}
    report = ingest([path], shop(limits=limits), settings)  # the same events, vouched for by now
    assert (report.published, report.already_present) == (0, 4)
    assert VOUCHED in manifest(settings.events).info
    assert newest(settings) == "2025-06-30 12:00:00"
    assert manifest(settings.sessions).rows == 4
