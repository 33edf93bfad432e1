from contextlib import contextmanager

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import running_redis
from tests.bento.small_shop import objects, rows


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A project of its own, named by the environment that servers inherit."""
    folder = tmp_path_factory.mktemp("shop")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEXTBUY_DATA", str(folder))
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        for name in ("REDIS_URL", "MLFLOW_TRACKING_URI"):
            patch.setenv(name, "")  # noted as absent, so that what MLflow sets there is undone
            patch.delenv(name)
        patch.setenv("NEXTBUY_SERVICE_LOG_SECONDS", "0.2")
        # A machine busy with other tests may need longer than a shop would wait.
        patch.setenv("NEXTBUY_SERVICE_TIME_BUDGET_MS", "1500")
        with _model_store(folder / "bentoml"):
            yield Settings()


@pytest.fixture(scope="module")
def store(settings):
    """The Feast store with everything applied and written to a Redis that runs."""
    from feast import FeatureStore

    with running_redis(settings):
        found = FeatureStore(repo_path=str(settings.feature_repo))
        found.apply(objects())
        for view, frame in rows().items():
            found.write_to_online_store(view, frame)
        yield found


@contextmanager
def _model_store(home):
    # BentoML reads BENTOML_HOME once a process; here every module has a home of its own.
    (home / "models").mkdir(parents=True)
    BentoMLContainer.model_store.set(ModelStore(home / "models"))
    yield
    BentoMLContainer.model_store.reset()
