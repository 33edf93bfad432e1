"""Stops the embedded Redis when nobody uses it any more, however the last user ended.

A process of its own, started beside the server: a user that is killed can stop nothing. It waits
for a lock that all users share and the kernel gives back for them. Run by its path, with the
standard library alone, it takes 20 ms to start and a few megabytes.
"""

import fcntl
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

SOCKET = "redis.sock"
SWITCH = "switch.lock"
"""Exclusive: nobody else starts, stops, enters or leaves."""
LEASE = "lease.lock"
"""Shared by all users."""
PRESENCE = "presence.lock"
"""The same, given back last. The keeper waits here, out of the way of a user that looks at
`LEASE` to see whether it was the last one."""
KEEPER = "keeper.lock"
"""Exclusive: one keeper is enough."""


def main(folder: str) -> None:
    """Return at once; the waiting is done by a child that belongs to no terminal and no parent."""
    os.chdir(folder)  # from here on names are relative, so the folder may be moved meanwhile
    with Path(KEEPER).open("wb") as own:
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        if os.fork():
            os._exit(0)
        os.setsid()
        server = int(Path("redis.pid").read_text())
        try:
            while not _stopped(own):
                time.sleep(1)
        except FileNotFoundError:  # the folder was removed: nothing is left to be saved
            _kill(server)


def _stopped(own: IO[bytes]) -> bool:
    """Wait for the last user to go; False if the next one came before the server was stopped."""
    with Path(PRESENCE).open("ab") as presence:
        fcntl.flock(presence, fcntl.LOCK_EX)
    with Path(SWITCH).open("ab") as switch, Path(LEASE).open("ab") as lease:
        fcntl.flock(switch, fcntl.LOCK_EX)
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if Path(SOCKET).exists():
            with suppress(ConnectionError), socket.socket(socket.AF_UNIX) as server:
                server.connect(SOCKET)
                server.sendall(b"SHUTDOWN SAVE\r\n")
                # Its end closes the connection; a full disk is an answer, and the server goes on.
                server.recv(1000)
        # Before the switch: the one that starts the next server starts its keeper too.
        fcntl.flock(own, fcntl.LOCK_UN)
    return True


def _kill(server: int) -> None:
    with suppress(OSError):
        if b"redis-server" in Path(f"/proc/{server}/cmdline").read_bytes():
            os.kill(server, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1])
