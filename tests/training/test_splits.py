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


def test_time_without_labels_is_no_part_of_any_split():
    """Two hundred days, down from day 100 to 130, and again of late: as if they had not been."""
    horizon = timedelta(days=10)

    def day(number):
        return OLDEST + timedelta(days=number)

    config = SplitConfig(warm_up_days=0, train=0.5, validation=0.1, calibration=0.1)
    unknown = [(day(90), day(130)), (day(180), day(195))]
    splits = split_by_time(OLDEST, day(200), horizon, config, unknown)
    # 140 days are known (0 to 90, 130 to 180); without two gaps 120: 60, 12, 12 and the test's 36.
    assert splits.train == (day(0), day(60))
    assert splits.validation == (day(70), day(82))
    assert splits.calibration == (day(82), day(134))  # 8 days before the hole, 4 after it
    assert splits.test == (day(144), day(180))


def test_a_log_that_a_hole_makes_too_short_says_so():
    unknown = [(OLDEST + timedelta(days=20), OLDEST + timedelta(days=110))]
    with pytest.raises(NextbuyError, match=r"180.0 days, of which 90.0 have no labels"):
        split_by_time(
            OLDEST, OLDEST + timedelta(days=180), timedelta(days=30), SplitConfig(), unknown
        )
