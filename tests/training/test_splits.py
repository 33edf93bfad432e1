from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nextbuy.errors import NextbuyError
from training.splits import SplitConfig, split_by_time

OLDEST = datetime(2024, 1, 1, tzinfo=UTC)


@given(st.floats(1, 400), st.integers(1, 60))
def test_no_label_can_look_into_a_later_split(days, horizon_days):
    horizon = timedelta(days=horizon_days)
    assume(days > 14 + 3 * horizon_days + 1)
    newest = OLDEST + timedelta(days=days)
    splits = split_by_time(OLDEST, newest, horizon, SplitConfig())
    assert splits.train[1] + horizon <= splits.validation[0]
    assert splits.validation[1] == splits.calibration[0]
    assert splits.calibration[1] + horizon <= splits.test[0]
    assert splits.test[1] + horizon <= newest
    assert all(start < end for start, end in splits.periods().values())


def test_a_log_that_is_too_short_is_refused_with_the_days_it_lacks():
    with pytest.raises(NextbuyError, match=r"spans 90.0 days.*take 104.0"):
        split_by_time(OLDEST, OLDEST + timedelta(days=90), timedelta(days=30), SplitConfig())
