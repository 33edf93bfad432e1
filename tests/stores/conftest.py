import pytest

from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import running_redis
from tests.shop import environment


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """One data folder, and in it one embedded Redis, for all tests of the stores."""
    with environment(tmp_path_factory.mktemp("d")) as settings:
        yield settings.data


@pytest.fixture(scope="session")
def redis_socket(data_folder):
    with running_redis(Settings(redis_url=None)) as url:
        yield url.removeprefix("unix://")


@pytest.fixture
def flushed(redis_socket):
    import redis

    client = redis.Redis(unix_socket_path=redis_socket)
    client.flushall()
    return client
