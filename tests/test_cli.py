import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import nextbuy.cli
from nextbuy.cli import data
from nextbuy.cli.app import app, verb_name
from nextbuy.cli.config import read_config
from nextbuy.errors import NextbuyError
from nextbuy.features import TABLES
from nextbuy.settings import Settings

VERBS = [verb_name(verb) for verb in app.registered_commands]
WANTED = {
    "simulate", "ingest", "sessionize", "features", "apply", "materialize", "train", "evaluate",
    "predict", "serve", "check", "monitor", "dashboard", "demo", "tune", "backtest", "promote",
    "rollback", "uplift", "daily", "backup", "restore", "merge-live", "forget", "reload", "score",
}  # fmt: skip


def test_there_is_a_verb_for_each_stage():
    assert set(VERBS) >= WANTED


def test_the_help_shows_the_flow_by_panels_and_no_tools_of_developers():
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
    panels = re.findall(r"^\W*(\w+) ─{3,}", shown, re.MULTILINE)
    assert panels == ["Options", "Start", "Data", "Features", "Model", "Serve", "Operate"]
    listed = re.findall(r"^│ ([a-z][a-z-]*)  ", shown, re.MULTILINE)
    assert listed == [name for name in VERBS if name != "absorb"]
    assert listed[0] == "demo"
    assert not {"commands", "catalogue"} & set(VERBS)


def test_the_old_name_of_merge_live_still_works_and_says_the_new_one(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path))
    old = CliRunner().invoke(app, ["absorb"])
    assert "nextbuy merge-live" in old.output
    new = CliRunner().invoke(app, ["merge-live"])
    assert str(old.exception) == str(new.exception)
    assert isinstance(new.exception, NextbuyError)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb):
    shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert shown.exit_code == 0
    assert re.search(rf"nextbuy {verb}", shown.output.replace("\n", " "))
    assert "Example" in shown.output


@pytest.mark.parametrize(
    ("verb", "remedy"),
    [("sessionize", "nextbuy ingest"), ("features", "nextbuy sessionize")],
)
def test_a_verb_out_of_order_names_the_one_before(verb, remedy, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["nextbuy", verb])
    with pytest.raises(SystemExit) as ended:
        nextbuy.cli.main()
    assert ended.value.code == 1
    assert remedy in capfd.readouterr().err


def test_a_relative_data_folder_is_the_same_from_every_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBUY_DATA", "data/shop")
    here = Settings().data
    monkeypatch.chdir(tmp_path)  # as Feast changes into feature_repo
    assert Settings().data == here


def test_an_unknown_source_lists_those_there_are():
    with pytest.raises(NextbuyError, match="taobao"):
        data.source_file("tabao")


def test_an_unknown_setting_is_refused_by_name(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("labels:\n  horizon: 3\n")
    with pytest.raises(NextbuyError, match=r"labels\.horizon"):
        read_config(file)


def test_shipped_settings_are_valid():
    from nextbuy.settings import PROJECT

    assert read_config(PROJECT / "configs" / "taobao.yaml").labels.horizon_days == 2


def test_the_registry_moves_into_a_database_by_profile(tmp_path, monkeypatch):
    from feast import FeatureStore

    from nextbuy.contract import FEATURE_SERVICE
    from nextbuy.settings import PROJECT

    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path / "data"))
    profile = PROJECT / "configs" / "profiles" / "sql_registry.yaml"
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(profile))
    monkeypatch.setenv("NEXTBUY_REGISTRY_URL", f"sqlite:///{tmp_path}/registry.db")
    applied = subprocess.run(
        [sys.executable, "-m", "nextbuy", "apply"], check=False, capture_output=True, text=True
    )
    assert applied.returncode == 0, applied.stderr
    store = FeatureStore(repo_path=str(Settings().feature_repo))
    views = {view.name for view in store.list_feature_views()}
    assert views == {table.name for table in TABLES}
    kept = store.get_feature_service(FEATURE_SERVICE).feature_view_projections
    assert {view.name for view in kept} == {table.name for table in TABLES if table.in_model}
    assert not Settings().registry.exists()
