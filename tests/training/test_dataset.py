from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.versioned_table import new_version
from training.dataset import build_dataset
from training.splits import SplitConfig

START = datetime(2024, 1, 1, tzinfo=UTC)
SPLIT = SplitConfig(warm_up_days=1)


def publish(settings, days, is_positive, horizon_days=5, holes=()):
    """A table of labels, four rows on each of `days`; `is_positive(day)` says of which."""
    moments = [START + timedelta(days=d, hours=h) for d in days for h in range(4)]
    known = [moment + timedelta(days=horizon_days) for moment in moments]
    rows = pa.table(
        {
            "user_id": [f"u{n % 9}" for n in range(len(moments))],
            "item_id": [f"i{n}" for n in range(len(moments))],
            "event_timestamp": pa.array(moments, pa.timestamp("us", "UTC")),
            "known_at": pa.array(known, pa.timestamp("us", "UTC")),
            "label": pa.array([int(is_positive(d) and h == 0) for d in days for h in range(4)],
                              pa.int8()),
        }
    )  # fmt: skip
    newest = int((START + timedelta(days=60)).timestamp() * 1_000_000)
    info = {"labels": {"horizon_days": horizon_days}, "newest_us": newest, "holes": holes}
    with (
        duckdb_connection(settings) as connection,
        new_version(settings.labels, "i", info) as version,
    ):
        connection.register("rows", rows)
        version.write_days(connection, "rows", "event_timestamp", ["item_id"])


def test_no_labels_yet_names_the_verb(settings):
    with pytest.raises(NextbuyError, match="nextbuy sessionize"):
        build_dataset(settings, SPLIT)


def test_no_positive_anywhere(settings):
    publish(settings, range(60), lambda day: False)
    with pytest.raises(NextbuyError, match=r"train split .* 0 positive rows of .* both classes"):
        build_dataset(settings, SPLIT)


def test_a_registry_without_the_features_names_the_verb(settings):
    publish(settings, range(60), lambda day: True)
    with pytest.raises(NextbuyError, match="nextbuy apply"):
        build_dataset(settings, SPLIT)


def test_one_class_in_one_split_names_the_split_and_its_period(settings):
    publish(settings, range(60), lambda day: day < 45)
    with pytest.raises(NextbuyError, match=r"The test split \(2024-02-1\d .* has 0 positive"):
        build_dataset(settings, SPLIT)


def test_a_split_beside_a_hole_names_the_hole_and_no_other_cause(settings):
    hole = [int((START + timedelta(days=d)).timestamp() * 1_000_000) for d in (30, 40)]
    publish(settings, [*range(25), *range(40, 60)], lambda day: day < 20, holes=[hole])
    with pytest.raises(NextbuyError, match="0 positive rows") as caught:
        build_dataset(settings, SPLIT)
    assert "no events from 2024-01-31 00:00 to 2024-02-10 00:00 UTC" in str(caught.value)
    assert "limits.not_after" in str(caught.value)
    assert "change horizon" not in str(caught.value)


def test_no_purchase_in_the_log_asks_for_the_mapping(settings):
    publish(settings, range(60), lambda day: False)
    with new_version(settings.sessions, "i", {"provides": ["view"]}):
        pass
    with pytest.raises(NextbuyError, match="event_types in the source file"):
        build_dataset(settings, SPLIT)


def test_a_period_without_any_row(settings):
    publish(settings, [d for d in range(60) if not 28 <= d < 45], lambda day: True)
    with pytest.raises(NextbuyError, match="0 positive rows of 0"):
        build_dataset(settings, SPLIT)


def test_a_log_without_rows_says_so(settings):
    publish(settings, [], lambda day: True)
    with pytest.raises(NextbuyError, match="no row to learn from"):
        build_dataset(settings, SPLIT)


def test_a_log_that_is_too_short_says_how_much_it_lacks(settings):
    publish(settings, range(60), lambda day: True, horizon_days=30)
    with pytest.raises(NextbuyError, match="warm-up, horizon and two gaps"):
        build_dataset(settings, SPLIT)


def test_samples_tell_sessions_apart():
    from tests.training.small_dataset import dataset
    from training.dataset import sample_of

    part = dataset(rows=2_000).part("test")
    sample = sample_of(part)
    keys = list(zip(part["user_id"].to_pylist(), part["event_timestamp"].to_pylist(), strict=True))
    assert len(np.unique(sample.sessions)) == len(set(keys))
