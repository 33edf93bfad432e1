from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from monitoring.drift import DriftConfig, compare, page, series, write_page
from monitoring.run import monitor
from monitoring.weeks import ripe_weeks
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings

CONFIG = DriftConfig()
START = datetime(2024, 1, 1, tzinfo=UTC)


def window(shift, brands, n=2000, seed=3):
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "user__n_views": rng.normal(10 + shift, 1, n),
            "user__spend": rng.normal(5, 1, n),
            "session__is_new": pa.array(rng.random(n) < 0.3 + shift / 10),
            "item__brand": rng.choice(brands, n),
            "item__price": pa.nulls(n, pa.float64()),
            "probability": rng.random(n),
            "label": pa.array(rng.integers(0, 2, n), pa.int8()),
        }
    )


def test_what_moved_is_found_and_what_stayed_is_not():
    found = compare(window(0, ["a", "b"]), window(2, ["a", "c"]), CONFIG)
    drifted = {drift.feature: drift.is_drifted for drift in found}
    assert drifted == {
        "user__n_views": True,
        "session__is_new": True,
        "item__brand": True,
        "user__spend": False,
        "probability": False,
        "label": False,
    }
    assert found == sorted(found, key=lambda drift: -drift.distance)


def test_method_and_threshold_are_per_feature():
    config = DriftConfig.model_validate(
        {"features": {"user__n_views": {"method": "psi", "threshold": 99}}}
    )
    moved = {d.feature: d for d in compare(window(0, ["a"]), window(2, ["a"]), config)}
    assert moved["user__n_views"].method == "psi"
    assert not moved["user__n_views"].is_drifted
    wrong = DriftConfig(numeric_method="nonesuch")
    with pytest.raises(NextbuyError, match="nonesuch is no method"):
        compare(window(0, ["a"]), window(0, ["a"]), wrong)


def test_a_column_whose_values_vanished_has_moved():
    after = window(0, ["a"]).set_column(1, "user__spend", pa.nulls(2000, pa.float64()))
    moved = {d.feature: d for d in compare(window(0, ["a"]), after, CONFIG)}
    assert moved["user__spend"].is_drifted
    assert moved["user__spend"].missing == 1


@pytest.mark.parametrize("way", ["new", "vanished"])
def test_a_new_or_vanished_column_is_said(way):
    less = window(0, ["a"]).drop_columns(["item__brand"])
    pair = (less, window(0, ["a"])) if way == "new" else (window(0, ["a"]), less)
    with pytest.raises(NextbuyError, match=f"{way} item__brand"):
        compare(*pair, CONFIG)


def test_an_empty_window_is_said():
    whole = window(0, ["a"])
    with pytest.raises(NextbuyError, match="current window has no rows"):
        compare(whole, whole.slice(0, 0), CONFIG)


def test_the_series_has_every_week_and_the_target_only_where_it_is_known():
    weekly = [(START + timedelta(days=7 * i), window(i, ["a"], seed=i)) for i in range(3)]
    newest = START + timedelta(days=14)
    rows = series(window(0, ["a"]), ripe_weeks(weekly, timedelta(days=7), newest), START, CONFIG)
    views = [r for r in rows if r["feature"] == "user__n_views"]
    assert [r["is_drifted"] for r in views if r["against"] == "training"] == [False, True, True]
    assert [r["is_drifted"] for r in views if r["against"] == "previous"] == [True, True]
    assert {r["week"] for r in rows if r["feature"] == "label"} == {START}
    assert {r["week"] for r in rows if r["feature"] == "probability"} == {w for w, _ in weekly}


def test_evidently_writes_its_page(tmp_path):
    settings = Settings(data=tmp_path)
    columns = ["user__n_views", "session__is_new", "item__brand", "probability", "label"]
    pair = [window(s, ["a", "b"], 300).select(columns) for s in (0, 1)]
    write_page(settings, *pair, CONFIG)
    text = page(settings).read_text()
    assert "<html" in text[:2000].lower()
    # Drift and summary of every column, not of some; and both classes make a classification.
    assert all(text.count(name) >= 2 for name in columns)
    assert "Classification" in text


def test_a_fresh_folder_is_never_a_green_light(tmp_path):
    report = monitor(Settings(data=tmp_path))
    assert report.exit_code == 1
    assert "nextbuy ingest" in str(report)
    assert "nextbuy train" in str(report)
