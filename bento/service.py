"""The Bento: `bentoml serve bento.service:Nextbuy` from the repository's root.

Its models are pinned by their tags (bento/deployment.py): a new champion is exported and served by
new workers that take over from the old ones.
"""

from bento.process import end_server  # first: the libraries below open files for their metrics

# isort: split
import gc
import logging

import bentoml
from pydantic import ValidationError
from starlette.responses import Response

from bento.deployment import deployed
from bento.handover import Handover
from bento.image import image
from bento.middleware import Guard
from bento.routes import pages
from bento.schemas import BatchRequest, BatchResponse, Prediction, PredictRequest
from bento.settings import ServiceSettings
from nextbuy.errors import NextbuyError

logger = logging.getLogger("bentoml.nextbuy")

SETTINGS = ServiceSettings()  # here, so that a wrong value ends the server and not each worker
DEPLOYED = deployed()
HANDOVER = Handover(DEPLOYED)


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
@bentoml.asgi_app(pages)
class Nextbuy:
    """Will this shopper buy this item in their next session?"""

    stored = bentoml.models.BentoModel(DEPLOYED.model)
    stored_shadow = bentoml.models.BentoModel(DEPLOYED.shadow) if DEPLOYED.shadow else None

    def __init__(self) -> None:
        """Load the model and check it against the feature registry, or refuse to start."""
        logging.getLogger("bentoml._internal.server.http_app").addFilter(_is_ours)
        # Not above: these imports take seconds, and the process that starts the workers needs none.
        from bento.runtime import Runtime

        try:
            self.runtime = Runtime(SETTINGS, self.stored, self.stored_shadow)
        except NextbuyError as error:
            logger.error("The service does not start. %s", error)
            end_server()
            raise

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    def _begin(self) -> None:
        """Take everything loaded so far out of garbage collection, whose full runs stall."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        HANDOVER.ready()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def _close(self) -> None:
        HANDOVER.gone()
        self.runtime.close()

    def __is_ready__(self) -> bool:
        """Whether Redis answers; the model is loaded or there is no service."""
        return not self.runtime.scorer.features.away

    @bentoml.api(output_spec=Prediction)  # type: ignore[untyped-decorator]
    async def predict(self, request: PredictRequest, /) -> Prediction | Response:
        """Rank items by the probability that the shopper buys them in their next session."""
        # Without a thread: it would wait for the interpreter as long as the work takes. A Redis
        # that does not answer holds everybody up once, for the time budget, and is then away.
        answers = self.runtime.answer([request])
        return answers if isinstance(answers, Response) else answers[0]

    @bentoml.api(output_spec=BatchResponse)  # type: ignore[untyped-decorator]
    def predict_batch(self, batch: BatchRequest, /) -> BatchResponse | Response:
        """Rank items for several shoppers: features are read and scored once for all."""
        answers = self.runtime.answer(batch.requests)
        if isinstance(answers, Response):
            return answers
        return BatchResponse(predictions=answers)


Nextbuy.add_asgi_middleware(Guard, settings=SETTINGS, handover=HANDOVER)  # type: ignore[attr-defined]


def _is_ours(record: logging.LogRecord) -> bool:
    """Leave out BentoML's traceback for each request that is not valid: it names the input."""
    return not (record.exc_info and isinstance(record.exc_info[1], ValidationError))
