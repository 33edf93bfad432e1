from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from nextbuy.connection import duckdb_connection
from nextbuy.settings import Settings
from nextbuy.versioned_table import new_version

ROOT = Path(__file__).parents[2]
PAGES = {
    "today": "Nothing is ingested yet",
    "quality": "Nothing was checked yet",
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
    assert any("spoiled" in error.value for error in opened("model").error)
