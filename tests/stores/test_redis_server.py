import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import (
    EmbeddedRedis,
    connect,
    find_redis_server,
    running_redis,
    shown,
)

USER = """
import sys
from nextbuy.stores.online.redis_server import running_redis
from nextbuy.settings import Settings
import redis
with running_redis(Settings(data=sys.argv[1])) as url:
    redis.Redis.from_url(url).incr("users")
    print("in", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def settings(tmp_path_factory, monkeypatch):
    monkeypatch.delenv("REDIS_URL", raising=False)
    return Settings(data=tmp_path_factory.mktemp("d"), redis_url=None)


def start_user(settings):
    user = subprocess.Popen(
        [sys.executable, "-c", USER, str(settings.data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert user.stdout.readline() == "in\n"
    return user


def end_user(user):
    user.communicate("\n", timeout=30)


def running(settings):
    socket, at_once = str(settings.redis / "redis.sock"), Retry(NoBackoff(), 0)
    try:
        return redis.Redis(unix_socket_path=socket, retry=at_once).ping()
    except redis.ConnectionError:
        return False


def test_first_starts_and_last_stops(settings):
    with running_redis(settings) as url:
        redis.Redis.from_url(url).set("a", 1)
        with running_redis(settings):
            pass
        assert running(settings)
    assert not running(settings)
    with running_redis(settings) as url:
        assert redis.Redis.from_url(url).get("a") == b"1"


def test_processes_share_one_server(settings):
    users = [start_user(settings) for _ in range(3)]
    for user in users[:2]:
        end_user(user)
        assert running(settings)
    end_user(users[2])
    assert not running(settings)
    with running_redis(settings) as url:
        assert redis.Redis.from_url(url).get("users") == b"3"


def test_killed_user_leaves_a_server_that_the_next_one_takes_over_and_stops(settings):
    user = start_user(settings)
    user.send_signal(signal.SIGKILL)
    user.communicate()
    with running_redis(settings) as url:
        assert redis.Redis.from_url(url).get("users") == b"1"
    assert not running(settings)


def await_stop(settings, seconds=30):
    """Wait until no server answers, which nobody but its keeper sees to."""
    deadline = time.monotonic() + seconds
    while running(settings):
        assert time.monotonic() < deadline, "the server was left behind"
        time.sleep(0.02)


def processes_of(folder):
    """Command lines of the processes that work in a folder or name it."""
    named = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if str(folder) in [process.cwd(), *process.cmdline()]:
                named.append(process.cmdline())
    return named


def test_server_is_stopped_when_its_last_user_is_killed(settings):
    """Its data is saved, and no process stays."""
    users = [start_user(settings) for _ in range(2)]
    users[0].send_signal(signal.SIGKILL)
    users[0].communicate()
    time.sleep(1)
    assert running(settings)
    users[1].send_signal(signal.SIGKILL)
    users[1].communicate()
    await_stop(settings)
    deadline = time.monotonic() + 10
    while processes_of(settings.redis):
        assert time.monotonic() < deadline, processes_of(settings.redis)
        time.sleep(0.02)
    with running_redis(settings) as url:
        assert redis.Redis.from_url(url).get("users") == b"2"


def test_a_server_has_one_keeper_however_often_it_is_started(settings):
    user = start_user(settings)
    with running_redis(settings) as url:
        client = redis.Redis.from_url(url)
        for _ in range(3):
            os.kill(client.info("server")["process_id"], signal.SIGKILL)
            while running(settings):
                time.sleep(0.01)
            with running_redis(settings):
                pass
        keepers = [line for line in processes_of(settings.redis) if "-S" in line]
        assert len(keepers) == 1
    user.kill()
    user.communicate()
    await_stop(settings)


def test_server_of_a_folder_that_was_moved_meanwhile_is_stopped_too(settings, tmp_path):
    user = start_user(settings)
    moved = Settings(data=settings.data.with_name("m"), redis_url=None)
    settings.data.rename(moved.data)
    assert running(moved)
    user.kill()
    user.communicate()
    await_stop(moved)
    with running_redis(moved) as url:
        assert redis.Redis.from_url(url).get("users") == b"1"


def test_killed_server_is_started_anew(settings):
    with running_redis(settings) as url:
        client = redis.Redis.from_url(url)
        client.set("a", 1)
        client.save()
        os.kill(client.info("server")["process_id"], signal.SIGKILL)
        deadline = time.monotonic() + 30
        while running(settings) and time.monotonic() < deadline:
            time.sleep(0.01)
        with running_redis(settings):
            assert client.get("a") == b"1"


def test_child_of_a_fork_keeps_the_server_until_it_ends(settings):
    read, write = os.pipe()
    server = EmbeddedRedis(settings.redis)
    server.enter()
    child = os.fork()
    if not child:
        server.renew_after_fork()
        os.read(read, 1)
        os._exit(0)
    server.leave()
    assert running(settings)
    os.write(write, b".")
    os.waitpid(child, 0)
    with running_redis(settings):
        pass
    assert not running(settings)


def test_process_that_connects_stops_the_server_when_it_exits(settings):
    code = (
        "import sys; from nextbuy.settings import Settings; "
        "from nextbuy.stores.online.redis_server import connect; "
        "connect(Settings(data=sys.argv[1])).set('a', 1)"
    )
    subprocess.run([sys.executable, "-c", code, str(settings.data)], check=True)
    assert not running(settings)
    with running_redis(settings) as url:
        assert redis.Redis.from_url(url).get("a") == b"1"


def test_server_of_a_folder_that_was_removed_meanwhile_is_stopped_too(settings):
    user = start_user(settings)
    shutil.rmtree(settings.data)
    user.kill()
    user.communicate()
    deadline = time.monotonic() + 30
    while any(str(settings.data) in str(line) for line in command_lines()):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def command_lines():
    """Of all processes."""
    return [p.info["cmdline"] for p in psutil.process_iter(["cmdline"]) if p.info["cmdline"]]


def test_no_tcp_port(settings):
    with running_redis(settings) as url:
        assert redis.Redis.from_url(url).config_get("port") == {"port": "0"}


def test_path_too_long_for_a_socket(tmp_path):
    with pytest.raises(NextbuyError, match="NEXTBUY_DATA"):
        connect(Settings(data=tmp_path / ("x" * 100), redis_url=None))


def test_file_in_the_socket_s_place(settings):
    settings.redis.mkdir(parents=True)
    (settings.redis / "redis.sock").write_text("not a socket")
    with pytest.raises(NextbuyError, match="not a socket"), running_redis(settings):
        pass


def test_no_server_binary(settings, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(NextbuyError, match="No redis-server found"):
        find_redis_server()


def test_unusable_folder_says_what_redis_said(settings):
    settings.redis.mkdir(parents=True)
    (settings.redis / "dump.rdb").write_bytes(b"not a dump")
    with pytest.raises(NextbuyError, match="did not start"), running_redis(settings):
        pass


def test_outside_redis_away_is_named_without_its_password(tmp_path):
    settings = Settings(data=tmp_path, redis_url="redis://me:secret@127.0.0.1:1/0")
    with pytest.raises(NextbuyError, match=r"redis://127\.0\.0\.1:1/0") as error:
        connect(settings)
    assert "secret" not in str(error.value)


def test_url_that_is_no_redis_url(tmp_path):
    with pytest.raises(NextbuyError, match="REDIS_URL"):
        connect(Settings(data=tmp_path, redis_url="http://shop"))


def test_address_shown():
    assert shown("redis://me:secret@shop:6379/0?password=x") == "redis://shop:6379/0"
