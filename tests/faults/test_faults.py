"""Faults that need no shop to be shown, and the table of all of them."""

import json
import re
import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nextbuy.cli import daily
from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError, explain_refusal
from nextbuy.settings import PROJECT, Settings


def test_dashboard_on_a_taken_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [Path(sys.executable).parent / "nextbuy", "dashboard", "--port", str(port)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert f"error: Cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "Choose another port" in done.stderr


def test_what_the_machine_refused_is_found_among_the_causes_and_nothing_else_is():
    outer = RuntimeError("the store failed")
    outer.__cause__ = sqlite3.OperationalError("disk I/O error")
    assert explain_refusal(outer).startswith("disk I/O error. The disk is full or fails.")
    assert explain_refusal(OSError(28, "No space left on device", "x")).startswith(
        "[Errno 28] No space left on device: 'x'. The disk is full."
    )
    assert explain_refusal(ValueError("a fault of ours")) is None


def test_too_low_a_memory_limit_is_named(tmp_path):
    settings = Settings(data=tmp_path, memory_limit="2MB")
    with (
        pytest.raises(NextbuyError, match=r"Out of Memory.*not enough memory\. Set NEXTBUY_MEMORY"),
        duckdb_connection(settings) as connection,
    ):
        connection.execute("SELECT md5(i::VARCHAR) AS m FROM range(3_000_000) r(i) ORDER BY m")


class Clock(datetime):
    """The computer's clock, as somebody set it."""

    says = datetime(2026, 3, 2, 2, 15, tzinfo=UTC)

    @classmethod
    def now(cls, tz=None):
        return cls.says


def test_clock_set_back_keeps_the_order_of_the_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(daily, "datetime", Clock)
    records = [daily._Run(tmp_path, {})._file]  # broken off: it does not end
    monkeypatch.setattr(Clock, "says", Clock.says - timedelta(days=400))
    for number in range(daily.RUN_RECORDS + 3):
        run = daily._Run(tmp_path, {})
        run.end()
        goes_on = "goes_on_from" in json.loads(run._file.read_text())
        assert goes_on == (number == 0)
        records.append(run._file)
    said = capsys.readouterr().out
    assert said.count("the clock says 2025-01-26 02:15 UTC, before") == daily.RUN_RECORDS + 3
    assert sorted(records) == records
    assert sorted(tmp_path.glob("*.json")) == records[-daily.RUN_RECORDS :]


def test_damaged_run_record_stops_no_run(tmp_path, capsys):
    (tmp_path / "2026-01-01T00-00-00.000000.json").write_text("")
    daily._Run(tmp_path, {"logs": []}).end()
    assert "is damaged and ignored" in capsys.readouterr().out


def test_wrong_python(tmp_path):
    """`make` says so before anything is installed."""
    old = tmp_path / "python3.10"
    code = "import sys; sys.version_info = (3, 10, 13); exec(sys.argv[1])"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$2"\n')
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(PROJECT / name, tmp_path)
    shutil.copytree(PROJECT / "requirements", tmp_path / "requirements")
    made = subprocess.run(
        ["make", "demo", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert made.returncode == 2
    assert "Nextbuy needs Python 3.11 to 3.13, this is 3.10" in made.stderr
    assert "make demo PYTHON=python3.11" in made.stderr
    assert not (tmp_path / ".venv").exists()


def test_every_test_that_the_table_names_is_there():
    table = (PROJECT / "docs" / "faults.md").read_text()
    named = re.findall(r"`(tests/\S+?\.py)::(test_\w+)`", table)
    assert len(named) > 25
    for file, test in named:
        assert f"\ndef {test}(" in (PROJECT / file).read_text(), f"{file}::{test}"
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert all("`tests/" in row for row in rows)
