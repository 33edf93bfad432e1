"""The live worker's supervisor ends what it started, also a worker that does not listen."""

import subprocess
import sys
import time

import psutil
import pytest

from bento import live_supervisor
from bento.live_supervisor import Supervisor
from nextbuy.settings import Settings

WORKERS = {
    "ends with its input": "import sys; sys.stdin.read()",
    "does not listen": "import time; time.sleep(600)",
}


@pytest.mark.parametrize("code", WORKERS.values(), ids=WORKERS)
def test_close_ends_the_worker(tmp_path, monkeypatch, code):
    start = subprocess.Popen

    def worker(_, **how):
        return start([sys.executable, "-c", code], **how)

    monkeypatch.setattr(live_supervisor.subprocess, "Popen", worker)
    monkeypatch.setattr(live_supervisor, "END_SECONDS", 1.0)
    kept = Supervisor(Settings(data=tmp_path))
    kept.wake()
    deadline = time.monotonic() + 60
    while kept._child is None and time.monotonic() < deadline:
        time.sleep(0.01)
    pid = kept._child.pid
    kept.close()
    assert not psutil.pid_exists(pid)
