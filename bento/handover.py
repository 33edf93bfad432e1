"""A new worker takes over from an old one, and no request is lost.

The arbiter's reload starts new workers and tells the old ones to end in the same moment, seconds
before a new one can answer. So an old worker stays until a new one has said that it is ready, then
accepts no more, asks its clients to leave (`Connection: close`), and ends when they have. Old and
new accept from the same listening socket: a connection that the old one leaves is the new one's.

A worker is old when the deployment file names other models than it loaded; told to end while the
file is unchanged, it ends.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from bento.deployment import FILE, Deployment, deployed

LONGEST_WAIT = 90
"""Seconds that an old worker waits for a new one."""
LEAVE_SECONDS = 6
"""Seconds in which clients leave; the server closes a connection that was idle for five anyway."""


class Handover:
    """This worker's part in a reload; without a deployment file there is none."""

    def __init__(self, mine: Deployment) -> None:
        self.leaving = False
        """Whether clients are to be asked to leave."""
        self._mine = mine
        self._note: Path | None = None
        self._told = False
        self._task: asyncio.Task[None] | None = None

    def ready(self) -> None:
        """Say that this worker answers from now on. Call it from the running event loop."""
        if not (path := os.environ.get(FILE)):
            return
        self._note = notes(Path(path)) / str(os.getpid())
        self._note.parent.mkdir(parents=True, exist_ok=True)
        self._note.write_text(self._mine.model_dump_json())
        loop = asyncio.get_running_loop()
        end: Any = signal.getsignal(signal.SIGTERM)

        def begin(signum: int) -> None:
            self._task = loop.create_task(self._hand_over(signum, end))

        def told_to_end(signum: int, frame: FrameType | None) -> None:
            if self._told or deployed() == self._mine:
                end(signum, frame)
            else:
                self._told = True
                loop.call_soon_threadsafe(begin, signum)

        signal.signal(signal.SIGTERM, told_to_end)

    def gone(self) -> None:
        """Take the note back."""
        if self._note is not None:
            self._note.unlink(missing_ok=True)

    async def _hand_over(self, signum: int, end: Any) -> None:
        deadline = time.monotonic() + LONGEST_WAIT
        while time.monotonic() < deadline and not self._has_successor():
            await asyncio.sleep(0.1)
        self.leaving = True
        uvicorn = end.__self__  # the handler is a method of its Server, which nothing else gives
        for listening in uvicorn.servers:
            listening.close()
        deadline = time.monotonic() + LEAVE_SECONDS
        while time.monotonic() < deadline and uvicorn.server_state.connections:
            await asyncio.sleep(0.1)
        end(signum, None)

    def _has_successor(self) -> bool:
        wanted = deployed()
        return any(there == wanted for _, there in ready_workers(Path(os.environ[FILE])))


def notes(deployment: Path) -> Path:
    """The folder in which the workers of a deployment file say that they are ready."""
    return deployment.with_suffix(".ready")


def ready_workers(deployment: Path) -> Iterator[tuple[int, Deployment]]:
    """Process id of each worker that is ready, and what it loaded."""
    for note in notes(deployment).glob("[0-9]*"):
        try:
            os.kill(int(note.name), 0)
            yield int(note.name), Deployment.model_validate_json(note.read_text())
        except (ProcessLookupError, FileNotFoundError, ValueError):
            continue  # killed, just gone, or just being written
