"""A process that ends with the one that started it, however that ends."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Receive SIGTERM when `parent` ends, even by kill -9; nothing where it is not the parent.

    Call it from the process itself, at its beginning. On Linux alone: elsewhere a parent that is
    killed leaves its children, as usual.
    """
    if sys.platform != "linux" or os.getppid() != parent:
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended meanwhile
        os.kill(os.getpid(), signal.SIGTERM)
