"""What is wrong with a command is said before any of its work, in one sentence."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nextbuy.cli import monitoring
from nextbuy.cli.app import app
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.shop import SHOP_FILE
from tests.nextbuy.small_log import ingest, log, shop


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("NEXTBUY_CONFIG", raising=False)
    return Settings()


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("NEXTBUY_SERVICE_API_KEYS", "short", "each API key needs at least 16 characters"),
        ("NEXTBUY_SERVICE_RATE_LIMIT", "abc", "valid number"),
        ("NEXTBUY_SERVICE_WITHOUT_REDIS", "panic", "'degrade' or 'refuse'"),
        ("NEXTBUY_SERVICE_WORKERS", "-1", "greater than 0"),
        ("NEXTBUY_THREADS", "many", "valid integer"),
        ("NEXTBUY_SHOPPER_TTL", "ninety days", "duration"),
    ],
)
def test_a_setting_that_cannot_be_read_is_one_sentence(data, monkeypatch, capfd, variable, value,
                                                       words):  # fmt: skip
    """Of the command that a user types, exit code and all; the value itself may be a secret."""
    monkeypatch.setenv(variable, value)
    done = subprocess.run(
        [sys.executable, "-m", "nextbuy", "serve", "--port", "39999"],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert re.search(rf"error: .*{variable}: .*{words}", done.stderr.replace("\n", " "))
    if variable.endswith("KEYS"):
        assert value not in done.stderr.replace("shorter", "")
    assert not (data.data / "serving").exists()


def test_a_wrong_moment_or_a_missing_log_stops_daily_before_its_first_step(data, tmp_path):
    file = log(tmp_path / "log.csv", "u1,2024-03-01 10:00:00,pv,i1,5")
    for arguments, words in (
        (["--at", "yesterday"], "--at yesterday is no moment"),
        ([str(tmp_path / "missing.csv"), "--source", "rees46"], "There is no file .*missing.csv"),
        ([str(file), "--source", "nonesuch"], "No source mapping nonesuch"),
        ([str(file), "--source", "rees46", "--at", "31.12.2024"], "is no moment"),
    ):
        refused = run("daily", *arguments).exception
        assert isinstance(refused, NextbuyError)
        assert re.search(words, str(refused))
    assert not (data.data / "runs").exists()


def test_a_missing_log_stops_the_demo_before_its_first_stage(data):
    refused = run("demo", "--source", "rees46", "--log", "nowhere.csv")
    assert "There is no file nowhere.csv" in str(refused.exception)
    assert not data.events.exists()


@pytest.mark.parametrize("at", [None, "newest", "2024-03-01", "2024-03-01T10:00+02:00"])
def test_a_moment_is_read_and_taken_to_be_utc_without_an_offset(at):
    moment = monitoring.moment_of(at)
    assert (moment is None) == (at in (None, "newest"))
    if at == "2024-03-01T10:00+02:00":
        assert moment.isoformat() == "2024-03-01T08:00:00+00:00"


def test_the_settings_come_back_with_a_backup(data, tmp_path, monkeypatch):
    data.data.mkdir()
    data.registry.write_bytes(b"registry")
    (data.data / SHOP_FILE).write_text('{"settings": {"labels": {"horizon_days": 7}}}')
    run("backup", str(tmp_path / "b.tar.gz"))
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path / "other"))
    ingest([log(tmp_path / "log.csv", "u1,2024-03-01 10:00:00,pv,i1,5")], shop(), Settings())
    assert run("restore", str(tmp_path / "b.tar.gz")).exit_code == 0  # a mark alone is no data
    assert '"horizon_days": 7' in (Settings().data / SHOP_FILE).read_text()
    assert "already has" in str(run("restore", str(tmp_path / "b.tar.gz")).exception)


def test_parity_says_why_rows_are_left_out():
    from monitoring.parity import ParityReport

    report = ParityReport(
        rows=5, values=50, mismatches=0, features={}, worst=[], degraded=1, with_context=2,
        not_comparable=3,
    )  # fmt: skip
    text = str(report)
    assert "1 rows left out: Redis did not answer" in text
    assert "2 rows left out: the request replaced features" in text
    assert re.search("3 rows left out: their model, .* is not on record", text)
    assert "left out" not in str(report.model_copy(
        update={"degraded": 0, "with_context": 0, "not_comparable": 0}))  # fmt: skip


def test_the_readme_s_day_by_day_holds_no_verb_that_fails_after_the_demo():
    text = (Path(__file__).parents[1] / "README.md").read_text()
    day = text[text.index("## Day by day") :].split("```")[1]
    assert "rollback" not in day  # of nothing promoted: it is named below the block
