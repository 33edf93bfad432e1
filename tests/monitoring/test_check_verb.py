"""`nextbuy check LOG`: a log is checked aside, and what it refused can be looked at."""

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from nextbuy.cli import monitoring  # noqa: F401
from nextbuy.cli.app import app
from nextbuy.settings import Settings
from tests.monitoring.small_events import month, save, with_values


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path / "data"))
    return Settings()


def checked(table, folder, *options):
    file = save(table, folder)
    return CliRunner().invoke(app, ["check", str(file), "--source", "simulated", *options])


def test_a_good_log_passes_and_nothing_is_published(settings, tmp_path):
    result = checked(month(3, 300), tmp_path, "--docs")
    assert result.exit_code == 0, result.output
    assert "900 rows pass" in result.output
    assert not settings.events.exists()
    assert not settings.quarantine.exists()
    assert (settings.reports / "data_docs" / "events.html").stat().st_size > 10_000


def test_a_bad_log_fails_and_its_refused_rows_are_where_it_says(settings, tmp_path):
    result = checked(with_values(month(3, 300), "price", range(90), -5), tmp_path)
    assert result.exit_code == 1
    assert not settings.events.exists()
    (folder,) = settings.quarantine.iterdir()
    assert str(folder) in str(result.exception)
    refused = pq.read_table(folder / "rows.parquet")["reason"].to_pylist()
    assert set(refused) == {"negative_price"}
