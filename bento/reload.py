"""A model update without downtime: new workers take over from the old ones, one server."""

import os
import signal
import time
from pathlib import Path

from bento.deployment import Deployment
from bento.export import export_deployment
from bento.handover import ready_workers
from bento.serve import deployment_file
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings

RELOAD_SECONDS = 180
ASK_AGAIN_SECONDS = 30
"""Asked while it looks after its workers, the arbiter does nothing."""


def reload(settings: Settings, port: int = 3000, shadow: bool = False) -> Deployment:
    """Let the server on `port` answer with the present champion; comes back when it does.

    The old workers answer until a new one is ready (bento/handover.py). A server that answers with
    these models already is left alone.

    >>> reload(Settings(), port=3000).model
    'nextbuy:v4-7d793037a076'

    Raises:
        NextbuyError: no server of this data folder runs on the port, there is no champion (with
            `shadow`: or challenger), it does not fit the feature registry, or no new worker got
            ready. The server goes on as it was.
    """
    file = deployment_file(settings, port)
    arbiter = _arbiter(file)
    wanted = export_deployment(settings, shadow)
    before = Deployment.model_validate_json(file.read_text())
    if wanted == before:
        return wanted
    _check_contracts(settings, wanted)
    wanted.write(file)
    deadline = time.monotonic() + RELOAD_SECONDS
    ask_at = 0.0
    while not _all_ready(file, wanted):
        if time.monotonic() > deadline:
            before.write(file)
            raise NextbuyError(
                f"No worker with {wanted.model} got ready within {RELOAD_SECONDS} s; see the log "
                "of the server, which answers with the models it had."
            )
        if time.monotonic() >= ask_at:
            os.kill(arbiter, signal.SIGHUP)
            ask_at = time.monotonic() + ASK_AGAIN_SECONDS
        time.sleep(0.1)
    return wanted


def _arbiter(file: Path) -> int:
    try:
        arbiter = int(file.with_suffix(".pid").read_text())
        os.kill(arbiter, 0)
    except (FileNotFoundError, ProcessLookupError):
        raise NextbuyError(
            f"No server started by `nextbuy serve --port {file.stem}` runs on this data folder "
            f"({file} names none). Start one, or name its port."
        ) from None
    return arbiter


def _check_contracts(settings: Settings, deployment: Deployment) -> None:
    import bentoml
    from feast import FeatureStore

    from bento.model import Model
    from bento.reader import bind

    store = FeatureStore(repo_path=str(settings.feature_repo))
    for tag in filter(None, (deployment.model, deployment.shadow)):
        bind(store, Model(tag, Path(bentoml.models.get(tag).path)).contract)


def _all_ready(file: Path, wanted: Deployment) -> bool:
    there = [loaded for _, loaded in ready_workers(file)]
    return bool(there) and all(loaded == wanted for loaded in there)
