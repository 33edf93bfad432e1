"""A shop's settings are recorded by the first build and kept until they are changed on purpose."""

import json
import re

import pytest
import yaml
from typer.testing import CliRunner

from nextbuy.cli.app import app
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.shop import (
    SHOP_FILE,
    LabelConfig,
    SessionConfig,
    ShopSettings,
    require_current_tables,
    shop_settings,
)
from nextbuy.versioned_table import manifest
from tests.nextbuy.small_log import ingest, log, shop
from tests.tables import build_labels, build_sessions

HOURS = [f"u{user},2024-03-0{day} 10:{minute:02}:00,pv,i{minute},5"
         for user in range(3) for day in range(1, 9) for minute in (0, 5, 25)]  # fmt: skip


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An ingested log, and nothing built from it."""
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("NEXTBUY_CONFIG", raising=False)
    settings = Settings()
    ingest([log(tmp_path / "log.csv", *HOURS)], shop(), settings)
    return settings


def run(*arguments):
    return CliRunner().invoke(app, list(arguments))


def config(folder, **sections):
    file = folder / f"{len(list(folder.glob('*.yaml')))}.yaml"
    file.write_text(yaml.safe_dump(sections))
    return str(file)


def test_ingest_marks_the_folder_and_binds_it_to_no_setting(data, tmp_path):
    record = json.loads((data.data / SHOP_FILE).read_text())
    assert record.pop("id")
    assert record == {"format": 1, "settings": None, "train": {}}
    assert (
        run("sessionize", "--config", config(tmp_path, labels={"horizon_days": 2})).exit_code == 0
    )
    assert manifest(data.labels).info["labels"] == {"horizon_days": 2}


def test_what_the_first_build_was_given_is_used_by_the_next_without_a_config(data, tmp_path):
    split = {"split": {"warm_up_days": 0.5}}
    first = config(tmp_path, labels={"horizon_days": 2}, sessions={"gap_minutes": 10}, train=split)
    assert "horizon 2 days" in run("sessionize", "--config", first).output
    again = run("sessionize")
    assert again.exit_code == 0, again.exception
    assert manifest(data.labels).info["labels"] == {"horizon_days": 2}
    assert manifest(data.sessions).info["sessions"]["gap_minutes"] == 10
    assert "up to date" in again.output
    assert json.loads((data.data / SHOP_FILE).read_text())["train"] == split


@pytest.mark.parametrize(
    ("sections", "named"),
    [
        ({"labels": {"horizon_days": 7}}, "labels.horizon_days: 7 in .*, 2 in this shop"),
        ({"sessions": {"gap_minutes": 31}}, "sessions.gap_minutes: 31 in .*, 30 in this shop"),
        (
            {"sessions": {"bot_burst_events": 9}},
            "sessions.bot_burst_events: 9 in .*, 30 in this shop",
        ),
        ({"time_zone": "Asia/Tokyo"}, "time_zone: Asia/Tokyo in .*, UTC in this shop"),
    ],
)
def test_another_value_of_any_setting_is_refused_by_every_verb_with_both_values(
    data, tmp_path, sections, named
):
    run("sessionize", "--config", config(tmp_path, labels={"horizon_days": 2}))
    before = (data.data / SHOP_FILE).read_bytes(), manifest(data.labels)
    other = config(tmp_path, **sections)
    for verb in ("sessionize", "daily", "train", "evaluate", "promote", "backtest", "tune"):
        refused = run(verb, "--config", other).exception
        assert isinstance(refused, NextbuyError), verb
        assert re.search(named, str(refused)), (verb, refused)
        assert "--rebuild" in str(refused)
    assert ((data.data / SHOP_FILE).read_bytes(), manifest(data.labels)) == before


def test_rebuild_changes_the_settings_and_the_tables(data, tmp_path):
    run("sessionize", "--config", config(tmp_path, labels={"horizon_days": 2}))
    other = config(tmp_path, labels={"horizon_days": 7})
    changed = run("sessionize", "--config", other, "--rebuild")
    assert changed.exit_code == 0, changed.exception
    assert manifest(data.labels).info["labels"] == {"horizon_days": 7}
    assert shop_settings(data).labels.horizon_days == 7
    assert run("sessionize", "--config", other).exit_code == 0


def test_what_a_file_leaves_out_stays_as_the_shop_has_it(data, tmp_path):
    run("sessionize", "--config", config(tmp_path, labels={"horizon_days": 2}))
    only_gap = config(tmp_path, sessions={"gap_minutes": 45})
    assert run("sessionize", "--config", only_gap, "--rebuild").exit_code == 0
    kept = shop_settings(data)
    assert (kept.labels.horizon_days, kept.sessions.gap_minutes) == (2, 45)


def test_a_folder_of_an_older_version_is_bound_to_what_its_tables_were_built_with(data, tmp_path):
    """Its manifests hold horizon and gap; the next build records them, with a word."""
    build_sessions(data, SessionConfig(gap_minutes=10))
    build_labels(data, LabelConfig(horizon_days=2))
    (data.data / SHOP_FILE).unlink()
    assert shop_settings(data) == ShopSettings(
        sessions=SessionConfig(gap_minutes=10), labels=LabelConfig(horizon_days=2)
    )
    refused = run("sessionize", "--config", config(tmp_path, labels={"horizon_days": 7}))
    assert "7 in" in str(refused.exception)
    assert not (data.data / SHOP_FILE).exists()
    said = run("sessionize")
    assert "horizon 2 days" in said.output
    assert "10 minutes" in said.output
    assert manifest(data.labels).info["labels"] == {"horizon_days": 2}


def test_tables_of_other_settings_than_the_recorded_are_not_used(data, tmp_path):
    """As a rebuild leaves them that ended between its two tables."""
    run("sessionize")
    build_labels(data, LabelConfig(horizon_days=9))
    with pytest.raises(NextbuyError, match=r"horizon_days 9 \(recorded: 30\).*nextbuy sessionize"):
        require_current_tables(data)
    assert run("sessionize").exit_code == 0
    assert require_current_tables(data).labels.horizon_days == 30


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 1, "colour": "red"}',
                                     '{"settings": {"time_zone": "Mars/Base"}}'])  # fmt: skip
def test_a_record_that_cannot_be_used_is_named_with_what_to_do(data, content):
    (data.data / SHOP_FILE).write_text(content)
    with pytest.raises(NextbuyError, match=r"shop\.json cannot be used: .+remove it"):
        shop_settings(data)


def test_a_record_of_a_later_format_is_not_guessed_at(data):
    (data.data / SHOP_FILE).write_text('{"format": 2}')
    with pytest.raises(NextbuyError, match="the version of Nextbuy that wrote it"):
        shop_settings(data)


def test_an_unknown_time_zone_is_refused_by_name(data, tmp_path):
    refused = run("sessionize", "--config", config(tmp_path, time_zone="Europe/Atlantis"))
    assert "'Europe/Atlantis' is no time zone" in str(refused.exception)
