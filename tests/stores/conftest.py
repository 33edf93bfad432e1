import os

import pytest

from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import running_redis


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory):
    """One data folder, and in it one embedded Redis, for all tests of the stores."""
    folder = tmp_path_factory.mktemp("d")
    before = {name: os.environ.pop(name, None) for name in ("NEXTBUY_DATA", "REDIS_URL")}
    os.environ["NEXTBUY_DATA"] = str(folder)
    yield folder
    os.environ.pop("NEXTBUY_DATA")
    os.environ.update({name: value for name, value in before.items() if value is not None})


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
