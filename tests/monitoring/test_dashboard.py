from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from streamlit.testing.v1 import AppTest

from monitoring import reports
from monitoring.dashboard import try_it
from monitoring.dashboard.read import bin_edges
from monitoring.performance import PerformanceConfig, by_week
from nextbuy.connection import duckdb_connection
from nextbuy.settings import Settings
from nextbuy.shop import SessionConfig
from nextbuy.sql import read_parquet
from nextbuy.versioned_table import files, new_version
from tests.monitoring.small_events import NOW, START, month, publish
from tests.tables import build_features, build_sessions

ROOT = Path(__file__).parents[2]
PAGES = {
    "today": "Nothing is ingested yet",
    "quality": "Nothing was checked yet",
    "live": "No live event has come yet",
    "drift": "Nothing was compared yet",
    "model": "No model was evaluated yet",
    "features": "No feature table was built yet",
    "try_it": "nextbuy serve",
}


def opened(page):
    script = f"from monitoring.dashboard import {page}\n{page}.show()\n"
    app = AppTest.from_string(script, default_timeout=60).run()
    assert not app.exception, app.exception
    return app


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path))
    return Settings()


@pytest.mark.parametrize("page", PAGES)
def test_a_fresh_folder_is_told_what_to_run(page, data):
    assert any(PAGES[page] in info.value for info in opened(page).info)


def test_the_app_opens_on_its_first_page(data):
    app = AppTest.from_file(str(ROOT / "monitoring/dashboard/app.py"), default_timeout=60).run()
    assert not app.exception
    assert app.title[0].value == "Today"


def test_today_counts_what_was_published(data):
    with duckdb_connection(data) as connection, new_version(data.events, "x") as version:
        connection.execute(
            "CREATE TABLE e AS SELECT i, DATE '2024-01-05' AS d FROM range(1234) r(i)"
        )
        version.write_days(connection, "e", "d", ["i"])
    app = opened("today")
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["Events"] == "1,234"
    assert app.dataframe[0].value["to"].tolist() == ["2024-01-05"]
    assert any("nextbuy monitor" in info.value for info in app.info)


def test_a_spoiled_report_is_an_error_and_no_blank_page(data):
    for kind in ("checks", "drift", "performance"):
        folder = data.reports / kind
        folder.mkdir(parents=True)
        (folder / "20240101.parquet").write_bytes(b"PAR1 cut off")
    for page in ("quality", "drift", "model"):
        assert any("cannot be read" in error.value for error in opened(page).error)
    (data.reports / "evaluation.json").write_text("{")
    assert any("damaged" in error.value for error in opened("model").error)


def test_what_if_evaluates_the_definitions_of_the_features(data):
    publish(month(days=10, per_day=200), data)
    build_sessions(data, SessionConfig())
    build_features(data)
    with duckdb_connection(data) as connection:
        price, discount, rate_price, rate_discount = connection.execute(
            f"SELECT price, discount, rate_price, rate_discount FROM "
            f"{read_parquet(files(data.features / 'item'))} WHERE item_id = 'i1' AND price > 0 "
            "ORDER BY event_timestamp DESC LIMIT 1"
        ).fetchone()
    row = try_it.item_row(data, "i1")
    now = try_it.features_at(row, price, discount)
    assert now == pytest.approx(
        {
            "item__price": price,
            "item__discount": discount,
            "item__rate_price": rate_price,
            "item__rate_discount": rate_discount,
        },
        rel=1e-12,
    )
    half = try_it.features_at(row, price / 2, price / 2)
    assert half["item__rate_discount"] == 0.5
    assert half["item__rate_price"] == pytest.approx(rate_price / 2, rel=1e-12)
    assert try_it.features_at(row, 0.0, 0.0)["item__rate_discount"] is None
    assert try_it.item_row(data, "no such item") is None


def test_the_model_page_draws_the_scored_rows(data):
    rng = np.random.default_rng(1)
    probability = rng.beta(0.6, 8, 2000)
    scored = pa.table(
        {
            "predicted_at": pa.array([START + timedelta(minutes=i) for i in range(2000)]),
            "label": pa.array((rng.random(2000) < probability).astype(np.int8)),
            "probability": probability,
            "user__n_views": rng.integers(0, 9, 2000),
        }
    )
    rows = by_week(scored, "backtest", timedelta(0), NOW, NOW, PerformanceConfig())
    reports.append(data, reports.PERFORMANCE, rows, NOW)
    (data.data / "monitoring").mkdir()
    pq.write_table(scored, data.data / "monitoring" / "scored-1.parquet")
    app = opened("model")
    text = " ".join(block.value for block in [*app.markdown, *app.caption])
    assert "2,000 rows since the training" in text
    assert "1500 cents a purchase, 250 cents a contact" in text


def check(rule, passed):
    return {
        "table": "events", "checked_at": NOW, "rows": 650, "rule": rule, "columns": "",
        "severity": "warn", "tolerance": 0.0, "passed": passed, "unexpected": None, "share": None,
        "observed": "", "remedy": "", "sample": "[]", "quarantine": None,
    }  # fmt: skip


def test_what_was_not_applied_counts_as_neither_passed_nor_failed(data):
    outcomes = {"has_rows": True, "event_mix": False, "day_volume": None}
    reports.append(data, reports.CHECKS, [check(*pair) for pair in outcomes.items()], NOW)
    app = opened("quality")
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["Checks passed"] == "1 of 2"
    assert shown["Too small to judge"] == "1"
    table = app.dataframe[0].value
    assert table["outcome"].tolist() == ["failed", "not applied", "passed"]


def test_what_grows_with_the_log_stands_apart_from_what_moved(data):
    moved = {
        "user__n_views": True, "session__n_views": True, "item__price": False,
        "probability": True, "label": True,
    }  # fmt: skip
    rows = [
        {
            "compared_at": NOW, "against": "training", "week": START, "feature": name,
            "method": "robust", "distance": 0.5, "threshold": 0.25, "is_drifted": drifted,
            "missing": 0.0,
        }
        for name, drifted in moved.items()
    ]  # fmt: skip
    reports.append(data, reports.DRIFT, rows, NOW)
    app = opened("drift")
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["Features drifted"] == "1 of 2"
    features, growing = (table.value["feature"].tolist() for table in app.dataframe)
    assert growing == ["user__n_views"]
    assert "user__n_views" not in features
    assert any("1 of 1 are over the threshold" in caption.value for caption in app.caption)


@pytest.mark.parametrize("highest", [3, 39, 47, 90, 1000])
def test_every_bar_over_whole_numbers_holds_as_many_of_them(highest):
    numbers = pd.Series(range(1, highest + 1), dtype=float)
    edges = bin_edges(numbers, 40)
    counts, _ = np.histogram(numbers[numbers.between(edges[0], edges[-1])], edges)
    assert len(counts) <= 40
    assert len(set(counts[1:-1])) <= 1  # the outer bars may reach beyond the numbers
    assert (edges[1:] - edges[:-1]).min() == (edges[1:] - edges[:-1]).max()
