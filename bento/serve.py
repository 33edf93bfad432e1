"""Run the service: in the foreground, or beside the caller for as long as a block lasts."""

import ipaddress
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO

import httpx

from bento.export import DEPLOYMENT_FILE, export_deployment
from bento.settings import STARTED_BY, ServiceSettings
from nextbuy.errors import NextbuyError
from nextbuy.network import check_free, free_port
from nextbuy.settings import PROJECT, Settings
from nextbuy.shop import mark_shop

START_SECONDS = 120
STOP_SECONDS = 60
SIGNAL_AGAIN_SECONDS = 5
"""The arbiter forgets a signal that comes while it looks after its workers."""
SERVICE = "bento.service:Nextbuy"


def serve(
    settings: Settings,
    host: str = "127.0.0.1",
    port: int = 3000,
    workers: int = 1,
    shadow: bool = False,
    at: datetime | str | None = None,
) -> None:
    """Export the champion and serve it in the foreground, until SIGINT or SIGTERM.

    With `shadow` the challenger scores the same requests for the prediction log. `at` is the
    present for a log of the past (`ServiceSettings.at`), instead of the environment's.

    >>> serve(Settings(), port=3000, workers=2)

    Raises:
        NextbuyError: there is no champion (with `shadow`: or challenger), the port is taken, or
            the server ended by itself.
    """
    ServiceSettings()  # what is wrong with them is said here, not in the log of each worker
    host = as_address(host)
    check_free(host, port)
    export_deployment(settings, shadow).write(deployment_file(settings, port))
    stopped = threading.Event()
    handlers = {
        number: signal.signal(number, lambda *_: stopped.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    # The server has a session of its own, so that Ctrl-C reaches it once and through us.
    server = _start(settings, host, port, workers, None, at)
    try:
        while server.poll() is None and not stopped.wait(0.1):
            pass
    finally:
        _stop(server)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    code = server.returncode
    if not stopped.is_set() and code not in (0, -signal.SIGTERM):
        raise NextbuyError(f"The server ended with exit code {code}; its log is above.")


@contextmanager
def running(
    settings: Settings,
    port: int | None = None,
    workers: int = 1,
    shadow: bool = False,
    at: datetime | str | None = None,
) -> Iterator[str]:
    """The base URL of a server on the loopback that is ready; it stops with the block.

    >>> with running(Settings()) as url:
    ...     httpx.get(f"{url}/readyz").status_code
    200

    Raises:
        NextbuyError: there is no champion, or the server did not get ready; the end of its log
            (`<data>/logs/service.log`) is in the message.
    """
    ServiceSettings()
    port = port or free_port()
    check_free("127.0.0.1", port)
    export_deployment(settings, shadow).write(deployment_file(settings, port))
    url = f"http://127.0.0.1:{port}"
    log = settings.data / "logs" / "service.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        server = _start(settings, "127.0.0.1", port, workers, output, at)
        try:
            _await_ready(server, url, log)
            yield url
        finally:
            _stop(server)


def as_address(host: str) -> str:
    """The address to listen on: BentoML takes no names.

    Raises:
        NextbuyError: it is a name, other than `localhost`.
    """
    try:
        return str(ipaddress.ip_address("127.0.0.1" if host == "localhost" else host))
    except ValueError:
        raise NextbuyError(
            f"{host} is no IP address. Listen on 127.0.0.1 for this machine alone, or on 0.0.0.0 "
            "for the network."
        ) from None


def limits(service: ServiceSettings, host: str) -> str | None:
    """What to know of a server that listens on this address: whom it does not answer, and why.

    >>> limits(ServiceSettings(), "127.0.0.1")
    """
    if service.keys or ipaddress.ip_address(as_address(host)).is_loopback:
        return None
    everyone = "requests from other machines" if host in ("0.0.0.0", "::") else "all requests"
    but = ", except POST /events with one of NEXTBUY_SERVICE_EVENT_KEYS" * bool(
        service.keys_for_events
    )
    return (
        f"Without API keys {everyone} are answered with 401{but}. "
        "Set NEXTBUY_SERVICE_API_KEYS, or listen on 127.0.0.1."
    )


def deployment_file(settings: Settings, port: int) -> Path:
    """What the server on a port answers with; its process id is beside it."""
    return settings.data / "serving" / f"{port}.json"


def worker_notes(file: Path) -> Path:
    """The folder in which the workers of a deployment file say what they answer with."""
    return file.with_suffix(".workers")


def environment(
    settings: Settings, port: int, workers: int, at: datetime | str | None = None
) -> dict[str, str]:
    """The environment that a server process is started with."""
    return {
        **os.environ,
        "NEXTBUY_DATA": str(settings.data),
        **({"REDIS_URL": settings.redis_url} if settings.redis_url else {}),
        DEPLOYMENT_FILE: str(deployment_file(settings, port)),
        STARTED_BY: str(os.getpid()),
        "NEXTBUY_SERVICE_WORKERS": str(workers),
        **({"NEXTBUY_SERVICE_AT": str(at)} if at else {}),
        # Feast's run-time type checks alone take five of its eight seconds of import; they are
        # compiled out together with assertions.
        "PYTHONOPTIMIZE": "1",
    }


def _start(
    settings: Settings,
    host: str,
    port: int,
    workers: int,
    output: IO[bytes] | None,
    at: datetime | str | None,
) -> subprocess.Popen[bytes]:
    mark_shop(settings)  # live events may be the first of a shop
    file = deployment_file(settings, port)
    shutil.rmtree(worker_notes(file), ignore_errors=True)  # a killed server leaves its own
    server = subprocess.Popen(
        [
            *(sys.executable, "-m", "bentoml", "serve", SERVICE),
            *("--host", host, "--port", str(port), "--working-dir", str(PROJECT)),
        ],
        cwd=PROJECT,
        env=environment(settings, port, workers, at),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output and subprocess.STDOUT,
        start_new_session=True,
    )
    file.with_suffix(".pid").write_text(str(server.pid))
    return server


def _await_ready(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise NextbuyError(f"The server ended before it was ready.\n{_tail(log)}")
        with suppress(httpx.HTTPError):
            if httpx.get(f"{url}/readyz", timeout=1).status_code == httpx.codes.OK:
                return
        time.sleep(0.05)
    raise NextbuyError(f"The server was not ready within {START_SECONDS} s.\n{_tail(log)}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        server.terminate()
        with suppress(subprocess.TimeoutExpired):
            server.wait(SIGNAL_AGAIN_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)  # its workers, if they outlived it
    server.wait()


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return "\n".join([f"The end of {log}:", *lines[-20:]])
