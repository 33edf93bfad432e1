"""The Bento: `bentoml serve bento.service:Nextbuy` from the repository's root.

BentoML's arbiter imports this module and starts workers that import it again. What takes seconds to
import, Feast and the boosters, is imported by the workers alone, in `Nextbuy.__init__`. The models
are pinned by their tags; a worker swaps them without a restart (bento/reload.py).
"""

import atexit
import gc
import logging
import os
import shutil
import signal
import tempfile
import uuid
from pathlib import Path

import bentoml
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from bento.export import Deployment, image
from bento.middleware import RequestMiddleware
from bento.routes import routes
from bento.schemas import BatchRequest, BatchResponse, Prediction, PredictRequest
from bento.settings import STARTED_BY, ServiceSettings
from nextbuy.errors import NextbuyError
from nextbuy.processes import end_with_parent

ARBITER = "NEXTBUY_ARBITER"
"""Environment variable: `<process id>-<random>` of the server that a worker belongs to."""

logger = logging.getLogger("bentoml.nextbuy")


def _set_up_process() -> None:
    """Give each server a metrics folder of its own, which its workers share.

    BentoML gives all servers of one BENTOML_HOME the same folder and empties it when the next one
    starts. The arbiter leaves a note in the environment, which its workers inherit; anything else
    that imports the service (`bentoml build`, a test) leaves one without effect. prometheus_client
    looks for the folder when it is imported, so nothing above may import it.
    """
    if _is_worker():
        end_with_parent(int(os.environ[ARBITER].partition("-")[0]))
        _metrics_folder().mkdir(exist_ok=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(_metrics_folder())
    else:
        end_with_parent(int(os.environ.pop(STARTED_BY, "-1")))
        os.environ[ARBITER] = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        atexit.register(shutil.rmtree, _metrics_folder(), ignore_errors=True)


def _is_worker() -> bool:
    return bool(bentoml.server_context.worker_index)


def _metrics_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"nextbuy-metrics-{os.environ[ARBITER]}"


def _end_server() -> None:
    """End the whole server and this worker: the arbiter would start another one for ever."""
    arbiter = int(os.environ[ARBITER].partition("-")[0])
    # An arbiter that is gone leaves its workers to process 1, which is not ours to end.
    if _is_worker() and os.getppid() == arbiter:
        os.kill(arbiter, signal.SIGTERM)
        # At once: a library's report of what a start cut short leaves behind would bury the reason.
        os._exit(1)


_set_up_process()
SETTINGS = ServiceSettings()  # here, so that a wrong value ends the server and not each worker
# uvicorn reads this variable when a worker starts, after this import. Without it, it believes an
# X-Forwarded-For from the whole loopback: anybody there could choose an address for each request.
os.environ["FORWARDED_ALLOW_IPS"] = SETTINGS.trusted_proxies or os.environ.get(
    "FORWARDED_ALLOW_IPS", ""
)
DEPLOYMENT = Deployment.from_environment()


@bentoml.service(
    name="nextbuy",
    image=image(),
    # Compiles out Feast's run-time type checks, five of its eight seconds of import.
    envs=[{"name": "PYTHONOPTIMIZE", "value": "1"}],
    workers=SETTINGS.workers,
    threads=4,  # for batches; more than a few only queue for the interpreter
    traffic={"timeout": 5, "max_concurrency": 256},
    logging={"access": {"enabled": False}},  # it halves the requests a second
    metrics={"enabled": False},  # theirs count by raw path, 404s included: without bound
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(routes)
class Nextbuy:
    """Will this shopper buy this item in their next session?"""

    stored = bentoml.models.BentoModel(DEPLOYMENT.model)
    stored_shadow = bentoml.models.BentoModel(DEPLOYMENT.shadow) if DEPLOYMENT.shadow else None

    def __init__(self) -> None:
        """Load the model and check it against the feature registry, or refuse to start."""
        for handler in logging.getLogger("bentoml").handlers:
            handler.addFilter(_is_relevant)
        from bento.runtime import Runtime  # workers only; see above

        try:
            self.runtime = Runtime(SETTINGS, DEPLOYMENT, self.stored, self.stored_shadow)
        except NextbuyError as error:
            logger.error("The service does not start. %s", error)
            _end_server()
            raise
        routes.state.runtime = self.runtime
        routes.state.service = Nextbuy
        routes.state.is_keyed = bool(SETTINGS.keys)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    def _begin(self) -> None:
        """Take everything loaded so far out of garbage collection, whose full runs stall."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        self.runtime.start()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def _close(self) -> None:
        self.runtime.close()

    def __is_ready__(self) -> bool:
        """Whether Redis answers and live events keep up, if the settings ask for it.

        The model is loaded or there is no service. The answer says what is wrong.
        """
        if why := self.runtime.why_not_ready():
            raise HTTPException(503, why)
        return True

    @bentoml.api(output_spec=Prediction)  # type: ignore[untyped-decorator]
    async def predict(self, request: PredictRequest, /) -> Prediction | Response:
        """Rank items by the probability that the shopper buys them in their next session."""
        # Without a thread: it would wait for the interpreter as long as the work takes. A Redis
        # that does not answer holds up all requests once, for the time budget, and is then away.
        predictions = self.runtime.active.answer([request])
        return predictions if isinstance(predictions, Response) else predictions[0]

    @bentoml.api(output_spec=BatchResponse)  # type: ignore[untyped-decorator]
    def predict_batch(self, batch: BatchRequest, /) -> BatchResponse | Response:
        """Rank items for several shoppers: features are read and scored once for all."""
        predictions = self.runtime.active.answer(batch.requests)
        if isinstance(predictions, Response):
            return predictions
        return BatchResponse(predictions=predictions)


Nextbuy.add_asgi_middleware(RequestMiddleware, settings=SETTINGS)  # type: ignore[attr-defined]


def _is_relevant(record: logging.LogRecord) -> bool:
    """Leave out BentoML's traceback for each request that is not valid: it names the input."""
    return not (record.exc_info and isinstance(record.exc_info[1], ValidationError))
