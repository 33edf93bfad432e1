from datetime import UTC, datetime, timedelta, timezone

import duckdb
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from nextbuy.sql import identifier, literal
from nextbuy.times import DAY, END_OF_TIME_US, NOT_SEEN_US, to_datetime, to_us, utc


def test_every_microsecond_survives_both_ways():
    for us in (0, 1, -1, DAY - 1, 1_711_846_799_999_999, -(10**15) - 1):
        assert to_us(to_datetime(us)) == us


def test_a_moment_is_counted_in_utc():
    berlin = timezone(timedelta(hours=2))
    assert to_us(datetime(1970, 1, 1, 2, tzinfo=berlin)) == 0
    assert utc(datetime.fromisoformat("2024-05-01")) == datetime(2024, 5, 1, tzinfo=UTC)


def test_the_limits_are_what_numpy_and_int64_make_of_them():
    assert np.isnat(np.int64(NOT_SEEN_US).view("M8[us]"))
    assert END_OF_TIME_US + 100_000 * DAY < 2**63


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1))
def test_quoted_text_comes_back_from_sql_as_it_was(text):
    connection = duckdb.connect()
    result = connection.execute(f"SELECT {literal(text)} AS {identifier(text)}")
    assert result.fetchall() == [(text,)]
    assert result.description[0][0] == text
