"""Keeps the live worker (nextbuy/live/worker.py) running beside the service."""

import sqlite3
import subprocess
import sys
import threading
from contextlib import suppress

from nextbuy.errors import NextbuyError
from nextbuy.live.health import count_restart
from nextbuy.settings import PROJECT, Settings
from nextbuy.versioned_table import lock

END_SECONDS = 10.0  # for a batch to be finished when the service ends


class Supervisor:
    """Keeps one live worker running for the data folder, from the first `wake` on."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._closing = threading.Event()

    def wake(self) -> None:
        """See to it that there is a worker. Returns at once."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="live", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """End the worker, if it is ours."""
        self._closing.set()
        child = self._child
        if child is not None and child.stdin:
            child.stdin.close()
            try:
                child.wait(END_SECONDS)
            except subprocess.TimeoutExpired:  # what it was at is done again by the next one
                child.kill()
                child.wait()

    def _watch(self) -> None:
        while not self._closing.wait(1 if self._child else 0):
            try:
                # Several service processes: the one that gets the lock has the worker.
                with lock(
                    self._settings.live / "supervisor.lock", "another service process has it"
                ):
                    self._run()
            except NextbuyError:
                self._closing.wait(1)

    def _run(self) -> None:
        while not self._closing.is_set():
            # It ends when its input does: with this process, however that dies.
            self._child = subprocess.Popen(
                [sys.executable, "-m", "nextbuy.live.worker"], cwd=PROJECT, stdin=subprocess.PIPE
            )
            self._child.wait()
            if not self._closing.is_set():
                with suppress(OSError, sqlite3.Error):  # it is started again all the same
                    count_restart(self._settings)
            self._closing.wait(1)
