from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from monitoring.config import load_config
from monitoring.drift import GROWING, DriftConfig, compare, page, series, write_page
from monitoring.run import monitor
from monitoring.signals import drift_signals
from monitoring.weeks import with_matured_labels
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
    drifts = compare(window(0, ["a", "b"]), window(2, ["a", "c"]), CONFIG)
    drifted = {drift.feature: drift.is_drifted for drift in drifts}
    assert drifted == {
        "user__n_views": True,
        "session__is_new": True,
        "item__brand": True,
        "user__spend": False,
        "probability": False,
        "label": False,
    }
    assert drifts == sorted(drifts, key=lambda drift: -drift.distance)


def test_method_and_threshold_are_per_feature():
    config = DriftConfig.model_validate(
        {"features": {"user__n_views": {"method": "psi", "threshold": 99}}}
    )
    moved = {d.feature: d for d in compare(window(0, ["a"]), window(2, ["a"]), config)}
    assert moved["user__n_views"].method == "psi"
    assert not moved["user__n_views"].is_drifted


def test_a_method_that_is_not_supported_is_refused_by_name(tmp_path):
    file = tmp_path / "monitoring.yaml"
    for setting in ("numeric_method: ks", "features: {user__n_views: {method: ks}}"):
        file.write_text(f"drift: {{{setting}}}")
        with pytest.raises(NextbuyError, match=r"drift.*'robust', 'wasserstein'"):
            load_config(file)
    as_number = DriftConfig.model_validate({"features": {"item__brand": {"method": "robust"}}})
    with pytest.raises(NextbuyError, match=r"item__brand is text\. Use jensenshannon or psi"):
        compare(window(0, ["a"]), window(0, ["a"]), as_number)


def mixed(n, seed, shift):
    rng = np.random.default_rng(seed)

    def missing(share):
        return rng.random(n) < share

    return pa.table(
        {
            "normal": pa.array(rng.normal(10 + shift, 2, n), mask=missing(0.05)),
            "count": pa.array(rng.poisson(3 + shift, n), pa.int64()),
            "flag": pa.array(rng.random(n) < 0.3 + shift / 10),
            "heavy": pa.array(rng.lognormal(shift, 2, n), mask=missing(0.3)),
            "constant": pa.array(np.full(n, 7.0)),
            "brand": pa.array(
                rng.choice(["a", "b", "c", "d"][: 3 + int(shift)], n), mask=missing(0.1)
            ),
            "many": pa.array([f"i{i}" for i in rng.zipf(1.5, n) % 50]),
        }
    )


EVIDENTLY = {
    "wasserstein": {
        "normal": 0.5198849944957405,
        "count": 0.6598300625713542,
        "flag": 0.22694660584543205,
        "heavy": 0.10479983837341046,
        "constant": 0.0,
    },
    "jensenshannon": {
        "normal": 0.18239149668110471,
        "count": 0.21429952950291356,
        "flag": 0.07709518500168634,
        "heavy": 0.05761053621708639,
        "constant": 0.0,
        "brand": 0.3245866475977512,
        "many": 0.1931045398348616,
    },
    "psi": {
        "normal": 0.2837240701535546,
        "count": 0.42593421407198867,
        "flag": 0.04768109541343243,
        "heavy": 0.02932749057539534,
        "constant": 0.0,
        "brand": 2.2315041541459744,
        "many": 0.3782695321421246,
    },
}
"""Of mixed(700, 1, 0.0) and mixed(500, 2, 1.0), by Evidently 0.7.23 at commit 4452682."""


def distance(old, new, method="robust"):
    (drift,) = compare(
        pa.table({"x": old}), pa.table({"x": new}), DriftConfig(numeric_method=method)
    )
    return drift.distance


def test_a_distance_counts_standard_deviations():
    rng = np.random.default_rng(5)
    old, new = rng.normal(0, 1, 3000), rng.normal(0.25, 1, 3000)
    assert distance(old, new) == pytest.approx(0.25, abs=0.06)
    assert distance(old, rng.normal(0, 1, 3000)) < 0.06


def test_distances_by_hand():
    assert distance([0.0, 0, 1, 1], [1.0, 1, 1, 1]) == pytest.approx(1)  # by 1/2, of 1/2
    assert distance([7.0, 7, 7], [7.0, 7, 7]) == 0
    assert distance([7.0, 7, 7], [8.0, 8, 8]) == pytest.approx(2)  # by 1, of both windows' 1/2


def test_a_count_that_is_mostly_zero_can_move():
    old = np.array([0.0] * 2700 + [4.0] * 300)
    assert distance(old, old * 3) > 2 * CONFIG.numeric_threshold  # by 0.8, of 1.2
    rare = np.array([0.0] * 2997 + [1.0] * 3)
    assert distance(rare, np.array([0.0] * 2900 + [1.0] * 100)) > CONFIG.numeric_threshold
    assert distance(rare, rare) == 0


@pytest.mark.parametrize("scale", [1e-9, 1e-4, 1, 1e9])
def test_a_move_is_seen_on_any_scale(scale):
    rng = np.random.default_rng(6)
    old, new = rng.normal(10, 1, 3000), rng.normal(11, 1, 3000)
    assert distance(old * scale, new * scale) == pytest.approx(distance(old, new), rel=1e-6)
    assert distance(old * scale, new * scale) > 3 * CONFIG.numeric_threshold
    if scale == 1e-4:
        assert distance(old * scale, new * scale, "wasserstein") < 0.25  # Evidently's sees nothing


@pytest.mark.parametrize("window", ["reference", "current"])
def test_an_outlier_hides_no_move_and_is_none(window):
    rng = np.random.default_rng(7)
    old, new = rng.lognormal(7, 0.5, 3000), rng.lognormal(7, 0.5, 3000)
    spoiled = old if window == "reference" else new
    spoiled[17] = 10_000_000  # a price of 100,000
    assert distance(old, new) < CONFIG.numeric_threshold / 2
    risen = np.where(new == 10_000_000, new, new * 1.5)
    assert distance(old, risen) > 2 * CONFIG.numeric_threshold
    if window == "reference":
        assert distance(old, risen, "wasserstein") < CONFIG.numeric_threshold


@pytest.mark.parametrize("method", EVIDENTLY)
def test_distances_are_evidently_s(method):
    by_category = "jensenshannon" if method == "wasserstein" else method
    config = DriftConfig(numeric_method=method, category_method=by_category)
    drifts = compare(mixed(700, 1, 0.0), mixed(500, 2, 1.0), config)
    distances = {drift.feature: drift.distance for drift in drifts if drift.method == method}
    assert distances == pytest.approx(EVIDENTLY[method], rel=1e-9, abs=1e-9)


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
    rows = series(
        window(0, ["a"]), with_matured_labels(weekly, timedelta(days=7), newest), START, CONFIG
    )
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


def test_what_grows_with_the_log_is_counted_apart():
    counters = {"user__n_views", "user_item__n_sessions", "item__n_purchases", "user__spend"}
    times = {"user__seconds_since_first_session", "user_item__seconds_since_first_touch"}
    assert counters | times < GROWING
    others = {"user__n_views_30d", "session__n_views", "item__price", "user__rate_purchase"}
    assert not GROWING & others
    week = datetime(2024, 1, 8, tzinfo=UTC)
    rows = [
        {"feature": name, "against": "training", "week": week, "is_drifted": drifted,
         "distance": 1.0, "threshold": 0.25}
        for name, drifted in (
            ("user__n_views", True), ("user__spend", True), ("item__n_purchases", False),
            ("session__n_views", True), ("item__price", False), ("probability", True),
        )
    ]  # fmt: skip
    drift, prediction = drift_signals(rows)
    assert drift.value == 0.5
    assert drift.features == ("session__n_views",)
    assert drift.message == (
        "1 of 2 features drifted since the training period (and 2 of 3 that grow with the age of "
        "the log)."
    )
    assert prediction.name == "prediction_drift"


def test_a_fresh_folder_is_never_a_green_light(tmp_path):
    report = monitor(Settings(data=tmp_path))
    assert report.exit_code == 1
    assert "nextbuy ingest" in str(report)
    assert "nextbuy train" in str(report)
