from contextlib import contextmanager

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from nextbuy.stores.online.redis_server import running_redis
from tests.bento.small_shop import PRESENT, objects, rows
from tests.shop import environment


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """A project of its own, named by the environment that servers inherit."""
    folder = tmp_path_factory.mktemp("shop")
    # A machine busy with other tests may need longer than a shop would wait.
    with (
        environment(
            folder, NEXTBUY_SERVICE_TIME_BUDGET_MS="1500", NEXTBUY_SERVICE_AT=PRESENT
        ) as settings,
        _model_store(folder / "bentoml"),
    ):
        yield settings


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
