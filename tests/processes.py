"""Processes that tests start."""

import os
import signal
import subprocess
from contextlib import suppress


def end_group(process, first=signal.SIGTERM):
    """End a process with a session of its own, and all it started; by force after a minute."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, first)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
