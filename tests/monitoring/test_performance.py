from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from monitoring.config import load_config
from monitoring.outcomes import join_outcomes
from monitoring.performance import PerformanceConfig, by_week, estimate, measure, profit_curve
from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.shop import LabelConfig, SessionConfig
from nextbuy.versioned_table import files
from tests.monitoring.small_events import START, month, publish
from tests.tables import build_labels, build_sessions

CONFIG = PerformanceConfig(margin_cents=1000, cost_cents=100, min_rows=20)
HORIZON = timedelta(days=3)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    settings = Settings(data=tmp_path_factory.mktemp("shop"), memory_limit="1GB", threads=1)
    publish(month(days=10, per_day=400), settings)
    build_sessions(settings, SessionConfig())
    build_labels(settings, LabelConfig(horizon_days=HORIZON.days))
    return settings


def test_an_outcome_is_what_the_label_says(shop):
    with duckdb_connection(shop) as connection:
        rows = connection.sql(
            "SELECT user_id, item_id, event_timestamp AS predicted_at, label AS truth "
            f"FROM read_parquet('{files(shop.labels)}')"
        ).to_arrow_table()
    outcomes = join_outcomes(shop, rows, START + timedelta(days=10))
    assert outcomes["label"].to_pylist() == outcomes["truth"].to_pylist()
    assert pc.sum(outcomes["label"]).as_py() > 0
    assert set(outcomes["state"].to_pylist()) == {"matured", "open"}


def test_what_the_events_end_before_is_censored(shop):
    rows = pa.table(
        {
            "user_id": ["u1", "nobody"],
            "item_id": ["i1", "i1"],
            "predicted_at": pa.array([START + timedelta(days=9.9)] * 2, pa.timestamp("us", "UTC")),
        }
    )
    later = join_outcomes(shop, rows, START + timedelta(days=30))
    assert later["state"].to_pylist() == ["censored", "censored"]
    assert later["label"].to_pylist() == [None, None]


def truth(n=20_000, seed=4):
    rng = np.random.default_rng(seed)
    probability = rng.beta(0.6, 8, n)
    return (rng.random(n) < probability).astype(float), probability


def test_the_estimate_holds_where_the_probabilities_are_true():
    label, probability = truth()
    seen, said = measure(label, probability, CONFIG), estimate(probability, CONFIG)
    assert said.pr_auc == pytest.approx(seen.pr_auc, abs=0.03)
    assert said.precision_at_5 == pytest.approx(seen.precision_at_5, abs=0.03)
    assert said.base_rate == pytest.approx(seen.base_rate, abs=0.005)
    assert seen.calibration_error < 0.01


def test_profit_is_hits_less_contacts():
    label = np.array([1.0, 0, 1, 0] * 25)
    probability = np.linspace(1, 0, 100)
    assert measure(label, probability, CONFIG).profit == 3 * 1000 - 5 * 100
    share, lift, profit = profit_curve(label, probability, CONFIG)[-1]
    assert (share, lift, profit) == (1.0, 1.0, 50 * 1000 - 100 * 100)


def weekly(label, days=28):
    n = len(label)
    at = [START + timedelta(days=days * i / n) for i in range(n)]
    return pa.table(
        {
            "predicted_at": pa.array(at, pa.timestamp("us", "UTC")),
            "probability": np.linspace(0.9, 0.1, n),
            "label": pa.array(label, pa.int8()),
        }
    )


def test_a_week_is_measured_only_when_all_of_it_has_matured():
    label = ([1, 0, 0, 0] * 25)[:100]
    rows = by_week(weekly(label), "backtest", HORIZON, START + timedelta(days=18), START, CONFIG)
    assert [row["state"] for row in rows] == ["measured", "measured", "estimated", "estimated"]
    assert rows[-1]["calibration_error"] is None


def test_one_class_and_too_few_are_states_and_no_numbers():
    newest = START + timedelta(days=60)
    rows = by_week(weekly([0] * 100), "backtest", HORIZON, newest, START, CONFIG)
    assert {row["state"] for row in rows} == {"one class"}
    assert rows[0]["pr_auc"] is None
    rows = by_week(weekly([0, 1] * 20), "backtest", HORIZON, newest, START, CONFIG)
    assert {row["state"] for row in rows} == {"too few"}


def test_old_names_of_the_economics_are_refused_with_the_new_ones(tmp_path):
    file = tmp_path / "monitoring.yaml"
    file.write_text("performance: {gain_cents: 800, contact_cents: 100}")
    with pytest.raises(NextbuyError, match="gain_cents is now called margin_cents; contact_cents"):
        load_config(file)
