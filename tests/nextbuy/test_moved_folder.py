"""A data folder works where it stands: moved, copied, or restored under another name."""

import shutil
import sqlite3
from contextlib import closing

import mlflow
import pytest

from nextbuy.contract import CHAMPION, REGISTERED_MODEL
from nextbuy.errors import NextbuyError
from nextbuy.models import registry
from nextbuy.settings import Settings
from tests.bento.small_shop import contract, fitted


def at(folder):
    """The settings of a folder, without the address that MLflow leaves in the environment."""
    return Settings(data=folder, redis_url=None, mlflow_tracking_uri=None)


def train(settings, seed):
    """A champion made as training does; the bytes of its booster."""
    client = registry.client(settings)
    with mlflow.start_run():
        from nextbuy.models.booster import Booster

        version = registry.log_booster(Booster(fitted("xgboost", seed), contract()))
    registry.set_alias(client, CHAMPION, version)
    return champion(settings)


def champion(settings):
    """The bytes of the champion's booster, as the service and `evaluate` get them."""
    folder = settings.data / "exported"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return registry.download(settings, CHAMPION, folder).file.read_bytes()


@pytest.fixture
def shop(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    settings = at(tmp_path / "shop")
    return settings, train(settings, seed=0)


def test_a_moved_folder_has_its_model(shop, tmp_path):
    settings, model = shop
    settings.data.rename(tmp_path / "elsewhere")
    assert champion(at(tmp_path / "elsewhere")) == model


def test_a_copy_never_reads_nor_writes_the_other_folder(shop, tmp_path):
    settings, model = shop
    other = at(tmp_path / "copy")
    shutil.copytree(settings.data, other.data)
    for file in settings.data.rglob("*.ubj"):
        file.write_bytes(b"another folder's")
    assert champion(other) == model

    before = sorted(settings.data.rglob("*"))
    second = train(other, seed=1)
    assert second != model
    assert champion(other) == second
    assert sorted(settings.data.rglob("*")) == before
    assert str(settings.data) not in addresses(other)


def addresses(settings):
    """All texts of MLflow's database."""
    with closing(sqlite3.connect(settings.data / "mlflow" / "mlflow.db")) as sql:
        return "\n".join(sql.iterdump())


def test_all_clients_of_ours_follow(shop, tmp_path):
    settings, _ = shop
    settings.data.rename(tmp_path / "elsewhere")
    moved = at(tmp_path / "elsewhere")
    version = registry.client(moved).get_model_version_by_alias(REGISTERED_MODEL, CHAMPION)
    run = registry.reader(moved).get_run(str(version.run_id))
    assert run.info.artifact_uri.startswith(moved.data.as_uri())


def test_a_copy_without_its_artifacts_says_so(shop, tmp_path):
    settings, _ = shop
    other = at(tmp_path / "copy")
    (other.data / "mlflow").mkdir(parents=True)
    shutil.copy(settings.data / "mlflow" / "mlflow.db", other.data / "mlflow" / "mlflow.db")
    for opened in (registry.client, registry.reader):
        with pytest.raises(NextbuyError, match="its artifacts are not here"):
            opened(other)


def test_artifacts_that_are_elsewhere_on_purpose_stay_there(shop, tmp_path):
    settings, _ = shop
    registry.client(settings).create_experiment("mine", "s3://bucket/mlflow/artifacts")
    registry.client(settings).create_experiment("notes", (tmp_path / "notes").as_uri())
    settings.data.rename(tmp_path / "elsewhere")
    client = registry.client(at(tmp_path / "elsewhere"))
    named = {e.name: e.artifact_location for e in client.search_experiments()}
    assert named["mine"] == "s3://bucket/mlflow/artifacts"
    assert named["notes"] == (tmp_path / "notes").as_uri()


def test_feast_names_the_tables_of_the_folder_it_is_asked_about(tmp_path, monkeypatch):
    from feast import FeatureStore, Field
    from feast.types import Int64, String

    from tests.shop import entity, feature_view

    def sources(folder):
        monkeypatch.setenv("NEXTBUY_DATA", str(folder))
        store = FeatureStore(repo_path=str(Settings().feature_repo))
        views = store.list_feature_views(allow_cache=False)
        return {view.name: view.batch_source.path for view in views}, store

    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    _, store = sources(first)
    from feast import FeatureService, FeatureView, FileSource

    user = entity()
    table = FeatureView(
        name="user",
        entities=[user],
        schema=[Field(name="user_id", dtype=String), Field(name="n_views", dtype=Int64)],
        source=FileSource(
            name="user_table",
            path=str(first / "features" / "user"),
            timestamp_field="event_timestamp",
        ),
    )
    mine = feature_view(
        "mine", tmp_path / "features" / "mine", [user], [Field(name="n", dtype=Int64)]
    )
    store.apply([user, table, mine, FeatureService(name="service", features=[table])])
    shutil.copytree(first, second)
    expected = {"user": str(second / "features" / "user"), "mine": str(mine.batch_source.path)}
    named, copied = sources(second)
    assert named == expected
    [projection] = copied.get_feature_service("service").feature_view_projections
    assert projection.batch_source.path == expected["user"]
    assert {s.name: s.path for s in copied.list_data_sources()}["user_table"] == expected["user"]
    named, _ = sources(first)
    assert named["user"] == str(first / "features" / "user")
