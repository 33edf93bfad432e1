"""A model update without downtime: every worker swaps its scorer, no process is replaced.

`nextbuy reload` replaces the deployment file. A thread in each worker polls that file, loads the
models it names, checks them against the feature registry and makes the new scorer the current one
(`ActiveScorer.replace`); a request ends with the scorer it began with. For the seconds in which
workers swap, two models may answer; each answer names its own.

Beside the file, `<port>.workers/<process id>` says what each worker answers with. A worker that
cannot load the new models keeps its scorer and writes the reason there: `nextbuy reload` then
restores the file, so that every worker goes back, and reports the reason.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bento.export import DEPLOYMENT_FILE, Deployment, export_deployment
from bento.serve import deployment_file, worker_notes
from nextbuy.atomic import write_text
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.versioned_table import lock

POLL_SECONDS = 0.25
MAX_RELOAD_SECONDS = 180
"""How long all workers together may take to load the models."""

logger = logging.getLogger("bentoml.nextbuy")


class WorkerState(BaseModel):
    """What a worker answers with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deployment: Deployment
    file_version: int = 0
    """The version of the deployment file that the worker acted on last (`file_version`)."""
    refusal: str | None = None
    """Why the worker did not take the models which that version names."""


class DeploymentWatcher:
    """Follows the deployment file of this worker's server."""

    def __init__(self, file: Path, loaded: Deployment, swap: Callable[[Deployment], None]) -> None:
        """Nothing is followed before `start`.

        Args:
            file: the deployment file.
            loaded: what the worker has loaded.
            swap: loads the models of another deployment and answers with them; if it raises, the
                worker keeps its models.
        """
        self._file = file
        self._swap = swap
        self._state = WorkerState(deployment=loaded)
        self._note = worker_notes(file) / str(os.getpid())
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="deployment", daemon=True)

    def start(self) -> None:
        """Say what this worker answers with, and follow the file from now on."""
        self._write_note()
        self._thread.start()

    def close(self) -> None:
        """Stop following, after a swap that has begun, and remove the note."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()
        self._note.unlink(missing_ok=True)

    def _watch(self) -> None:
        while not self._closing.wait(POLL_SECONDS):
            try:
                version = file_version(self._file)
                if version != self._state.file_version:
                    self._state = self._follow(version)
                    self._write_note()
            except OSError as error:  # the folder is out of reach for now, or the disk is full
                logger.error("The deployment file could not be followed: %s", error)

    def _follow(self, version: int) -> WorkerState:
        present = self._state.deployment
        try:
            deployment = Deployment.read(self._file)
            if deployment != present:
                self._swap(deployment)
        except Exception as error:  # whatever it is, the present scorer goes on
            reason = str(error) if isinstance(error, NextbuyError) else repr(error)
            logger.error("%s goes on answering; the new deployment failed: %s", present, reason)
            return WorkerState(deployment=present, file_version=version, refusal=reason)
        return WorkerState(deployment=deployment, file_version=version)

    def _write_note(self) -> None:
        write_text(self._note, self._state.model_dump_json())


def reload(settings: Settings, port: int = 3000, shadow: bool = False) -> Deployment:
    """Make the server on `port` answer with the present champion; returns when all workers do.

    A server that answers with these models already is left alone.

    >>> reload(Settings(), port=3000).model
    'nextbuy:v4-7d793037a076'

    Raises:
        NextbuyError: no server of this data folder runs on the port, there is no champion (with
            `shadow`: or challenger), or a worker could not load it, for example because it does
            not fit the feature registry. The server goes on with the models it had.
    """
    file = deployment_file(settings, port)
    _check_running(file)
    deployment = export_deployment(settings, shadow)
    with lock(file.with_suffix(".lock"), f"Another reload of the server on port {port} runs"):
        previous = Deployment.read(file)
        if deployment == previous:
            return deployment
        states = _deploy(file, deployment)
        refusals = {state.refusal for state in states if state.refusal}
        if states and all(state.deployment == deployment for state in states):
            return deployment
        _deploy(file, previous)
    reason = "; ".join(sorted(refusals)) or (
        f"not all workers had loaded it within {MAX_RELOAD_SECONDS} s; see the server's log"
    )
    raise NextbuyError(
        f"The server on port {port} goes on with {previous.model}; {deployment.model} was not "
        f"taken: {reason}"
    )


def file_version(file: Path) -> int:
    """Changes with every replacement of the deployment file, also by an equal one."""
    return file.stat().st_mtime_ns


def worker_states(file: Path) -> Iterator[tuple[int, WorkerState]]:
    """Process id of each worker that serves a deployment file, and what it answers with."""
    for note in worker_notes(file).glob("[0-9]*"):
        try:
            os.kill(int(note.name), 0)
            yield int(note.name), WorkerState.model_validate_json(note.read_text())
        except (ProcessLookupError, FileNotFoundError):
            continue  # killed, or just gone


def _deploy(file: Path, deployment: Deployment) -> list[WorkerState]:
    """Replace the file; the states of the workers once each has acted on it, or time is up."""
    deployment.write(file)
    version = file_version(file)
    deadline = time.monotonic() + MAX_RELOAD_SECONDS
    while True:
        states = [state for _, state in worker_states(file)]
        acted = [state.file_version == version for state in states]
        refused = any(state.file_version == version and state.refusal for state in states)
        if (acted and all(acted)) or refused or time.monotonic() > deadline:
            return states
        time.sleep(0.05)


def _check_running(file: Path) -> None:
    try:
        process = int(file.with_suffix(".pid").read_text())
        os.kill(process, 0)
        # In a copied data folder the file names the other folder's server; and ids are used again.
        environment = Path(f"/proc/{process}/environ")
        if environment.exists() and (
            f"{DEPLOYMENT_FILE}={file}".encode() not in environment.read_bytes().split(b"\0")
        ):
            raise ProcessLookupError
    except (FileNotFoundError, ProcessLookupError):
        raise NextbuyError(
            f"No server started by `nextbuy serve --port {file.stem}` runs on this data folder "
            f"({file} names none). Start one, or name its port."
        ) from None
