"""What the processes of one server share. Import it first: it sets where a worker counts.

BentoML's arbiter imports the service and then starts workers that import it again. The arbiter
leaves a note in the environment, which its workers inherit; anything else that imports the service
(`bentoml build`, a test) is nobody's parent and leaves one without effect.

BentoML gives all servers of one BENTOML_HOME the same folder for their metrics and empties it when
the next one starts. Here each server has its own. prometheus_client opens its files with the first
metric, and Feast makes some when it is imported.
"""

import atexit
import os
import shutil
import signal
import sys
import tempfile
import uuid
from pathlib import Path

ARBITER = "NEXTBUY_ARBITER"
"""`<process id>-<random>` of the server that a worker belongs to."""


def end_server() -> None:
    """End the whole server and this worker: the arbiter would start another one for ever."""
    arbiter = int(os.environ[ARBITER].partition("-")[0])
    # An arbiter that is gone leaves its workers to process 1, which is not ours to end.
    if _is_worker() and os.getppid() == arbiter:
        os.kill(arbiter, signal.SIGTERM)
        # At once: a library's report of what a start cut short leaves behind would bury the reason.
        os._exit(1)


def _is_worker() -> bool:
    context = sys.modules.get("bentoml._internal.context")  # a worker's first import
    return context is not None and bool(context.server_context.worker_index)


def _metrics_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"nextbuy-metrics-{os.environ[ARBITER]}"


if _is_worker():
    _metrics_folder().mkdir(exist_ok=True)
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics_folder())
else:
    os.environ[ARBITER] = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
    atexit.register(shutil.rmtree, _metrics_folder(), ignore_errors=True)
