"""The Dagster example: what it declares, and one day run by it in this process."""

import json
import os
import sys
from pathlib import Path

import pytest

dg = pytest.importorskip("dagster", reason="requirements/dagster.lock not installed")

ROOT = Path(__file__).parents[1]
FILE = ROOT / "containers" / "dagster" / "shop_day.py"
NEXTBUY = ROOT / ".venv" / "bin" / "nextbuy"


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(FILE.parent)
    import shop_day

    return shop_day


def test_one_asset_is_due_every_night(example):
    loaded = example.definitions
    dg.Definitions.validate_loadable(loaded)
    schedule = loaded.resolve_schedule_def("nextbuy_daily_schedule")
    assert schedule.cron_schedule == "15 2 * * *"
    assert schedule.execution_timezone in (None, "UTC")
    assert [key.path for key in loaded.resolve_all_asset_keys()] == [["shop_day"]]


def script(folder, body):
    """A stand-in for the command, to see how a run's end is told."""
    file = folder / "nextbuy"
    file.write_text(f"#!{sys.executable}\n{body}")
    file.chmod(0o755)
    return str(file)


def test_a_failed_day_is_a_failed_run_with_what_was_said(example, tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path))
    monkeypatch.setenv("NEXTBUY", script(tmp_path, "print('no log'); raise SystemExit(1)"))
    result = dg.materialize([example.shop_day], partition_key="2024-07-01", raise_on_error=False)
    assert not result.success
    failure = result.failure_data_for_node("shop_day").user_failure_data
    assert failure.metadata["said"].value == "no log\n"


def test_a_day_is_taken_in_by_it(example, tmp_path, monkeypatch):
    """The real command on a real shop: its day's log is found by the date of the partition."""
    shop = os.environ.get("NEXTBUY_DATA")
    if not NEXTBUY.exists() or not shop or not (Path(shop) / "registry.db").exists():
        pytest.skip("wants make .venv/ready, and NEXTBUY_DATA with a finished demo")
    newest = max((Path(shop) / "raw" / "simulated").glob("*.parquet"))
    monkeypatch.setenv("NEXTBUY", str(NEXTBUY))
    monkeypatch.setenv("NEXTBUY_LOGS", str(newest).replace(newest.stem[-10:], "{day}"))
    monkeypatch.setenv("NEXTBUY_SOURCE", "simulated")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    result = dg.materialize(
        [example.shop_day], partition_key=newest.stem[-10:], raise_on_error=False
    )
    (record,) = [json.loads(f.read_text()) for f in sorted((Path(shop) / "runs").glob("*"))[-1:]]
    assert result.success == (record["monitor"] == 0)
    assert record["logs"] == [str(newest)]
    names = {step["name"] for step in record["steps"]}
    assert {"ingest", "feature tables", "feast materialize", "monitor"} <= names
