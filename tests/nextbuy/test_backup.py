"""Backup and restore on a real Redis, a real MLflow store and a real live store."""

import shutil
from pathlib import Path

import mlflow
import pytest
from typer.testing import CliRunner

from nextbuy.cli import app
from nextbuy.errors import NextbuyError
from nextbuy.live.event_store import EventRow, LiveStore
from nextbuy.maintenance.backup import backup, restore
from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import connect

EVENT = EventRow("e1", "u1", 5, "view", "i1")


def silent(part):
    pass


@pytest.fixture
def filled(tmp_path, monkeypatch):
    """A data folder with something of everything."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = Settings(data=tmp_path / "shop")
    settings.data.mkdir()
    settings.registry.write_bytes(b"registry")
    settings.predictions.mkdir()
    (settings.predictions / "a.parquet").write_bytes(b"predictions")
    folder = settings.data / "mlflow"
    folder.mkdir()
    client = mlflow.MlflowClient(settings.tracking_uri)
    experiment = client.create_experiment("e", (folder / "artifacts").as_uri())
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, "kept", "note.txt")
    with LiveStore(settings) as store:
        store.append([EVENT], 6)
    redis = connect(settings)
    redis.hset("hash", "field", b"\x00\xff")
    redis.set("ends", "soon", ex=10_000)
    return settings, run.info.run_id


def test_what_was_kept_comes_back_in_another_folder(filled, tmp_path):
    settings, run = filled
    file = tmp_path / "kept" / "b.tar.gz"
    kept = backup(settings, file, silent)
    assert "Redis: 2 keys" in kept
    other = Settings(data=tmp_path / "other")
    assert "Redis: 2 keys" in restore(other, file, silent, replace=False)

    assert other.registry.read_bytes() == b"registry"
    assert (other.predictions / "a.parquet").read_bytes() == b"predictions"
    client = mlflow.MlflowClient(other.tracking_uri)
    assert str(tmp_path / "other") in client.get_run(run).info.artifact_uri
    assert Path(client.download_artifacts(run, "note.txt")).read_text() == "kept"
    with LiveStore(other) as store:
        assert store.append([EVENT], 7) == ["duplicate"]
    redis = connect(other)
    assert redis.hget("hash", "field") == b"\x00\xff"
    assert 9_000 < redis.ttl("ends") <= 10_000
    assert redis.dbsize() == 2


def test_what_is_there_is_not_replaced_unasked(filled, tmp_path):
    settings, _ = filled
    file = tmp_path / "b.tar.gz"
    backup(settings, file, silent)
    settings.registry.write_bytes(b"newer")
    with pytest.raises(NextbuyError, match=r"registry\.db.*--replace"):
        restore(settings, file, silent, replace=False)
    assert settings.registry.read_bytes() == b"newer"
    restore(settings, file, silent, replace=True)
    assert settings.registry.read_bytes() == b"registry"


def test_a_broken_archive_changes_nothing(filled, tmp_path):
    settings, _ = filled
    file = tmp_path / "b.tar.gz"
    backup(settings, file, silent)
    whole = file.read_bytes()
    for spoiled in (whole[: len(whole) // 2], b"no archive", b""):
        file.write_bytes(spoiled)
        with pytest.raises(NextbuyError, match="no backup that can be read"):
            restore(settings, file, silent, replace=True)
        assert settings.registry.read_bytes() == b"registry"
    with pytest.raises(NextbuyError, match="no backup that can be read"):
        restore(settings, tmp_path / "missing", silent, replace=True)


def test_an_archive_is_not_replaced_unasked(filled, tmp_path, monkeypatch):
    settings, _ = filled
    monkeypatch.setenv("NEXTBUY_DATA", str(settings.data))
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    result = CliRunner().invoke(app, ["backup", str(file)])
    assert "--replace" in str(result.exception)
    assert file.read_text() == "mine"
    assert CliRunner().invoke(app, ["backup", str(file), "--replace"]).exit_code == 0
    assert file.read_bytes()[:2] == b"\x1f\x8b"


def test_a_restore_names_what_can_be_run_next(filled, tmp_path, monkeypatch):
    settings, _ = filled
    file = tmp_path / "b.tar.gz"
    backup(settings, file, silent)
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path / "other"))
    said = CliRunner().invoke(app, ["restore", str(file)]).output
    assert "nextbuy ingest LOG" in said  # without tables nothing can be materialized
    assert "nextbuy materialize" not in said


def test_a_backup_of_a_folder_that_was_moved_before_is_restored(filled, tmp_path):
    settings, run = filled
    settings.data.rename(tmp_path / "moved")
    file = tmp_path / "b.tar.gz"
    backup(Settings(data=tmp_path / "moved"), file, silent)
    shutil.rmtree(tmp_path / "moved")
    other = Settings(data=tmp_path / "other")
    restore(other, file, silent, replace=False)
    client = mlflow.MlflowClient(other.tracking_uri)
    assert Path(client.download_artifacts(run, "note.txt")).read_text() == "kept"


def test_an_empty_folder_has_nothing_to_back_up(tmp_path):
    with pytest.raises(NextbuyError, match="nothing to back up"):
        backup(Settings(data=tmp_path), tmp_path / "b.tar.gz", silent)
    assert not (tmp_path / "b.tar.gz").exists()
