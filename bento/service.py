"""The Bento: `bentoml serve bento.service:Nextbuy` from the repository's root.

The model is pinned by its tag (`NEXTBUY_MODEL`, default `nextbuy:latest`): a new champion is
exported and served by a rolling restart.
"""

import gc
import logging
import os
import signal
from datetime import timedelta
from pathlib import Path

import bentoml
from pydantic import ValidationError
from starlette.responses import JSONResponse, Response

from bento.features import FeaturesAwayError, OnlineFeatures
from bento.guard import Guard
from bento.log import PredictionLog
from bento.messages import BatchRequest, BatchResponse, Prediction, PredictRequest
from bento.metrics import process_metrics
from bento.model import Model
from bento.pages import pages
from bento.scorer import ContextError, Scorer
from bento.settings import ServiceSettings
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings

logger = logging.getLogger("bentoml.nextbuy")

SETTINGS = ServiceSettings()  # here, so that a wrong value ends the server and not each worker


@bentoml.service(
    workers=SETTINGS.workers,
    threads=4,  # handlers wait for Redis; more than a few only queue for the interpreter
    traffic={"timeout": 5, "max_concurrency": 256},
    logging={"access": {"enabled": False}},  # it halves the requests a second
    metrics={"enabled": False},  # theirs count by raw path, 404s included: without bound
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(pages)
class Nextbuy:
    """Will this shopper buy this item in their next session?"""

    stored = bentoml.models.BentoModel(os.environ.get("NEXTBUY_MODEL", "nextbuy:latest"))

    def __init__(self) -> None:
        """Load the model and check it against the feature registry, or refuse to start."""
        logging.getLogger("bentoml._internal.server.http_app").addFilter(_is_ours)
        settings = Settings()
        metrics = process_metrics()
        try:
            model = Model(str(self.stored.tag), Path(self.stored.path))
            budget = timedelta(milliseconds=SETTINGS.time_budget_ms)
            features = OnlineFeatures(settings, model.contract, budget)
        except NextbuyError as error:
            logger.error("The service does not start. %s", error)
            _end_server()
            raise
        self._log = PredictionLog(
            settings,
            SETTINGS.log_rows,
            SETTINGS.log_seconds,
            on_written=metrics.logged.inc,
            on_lost=metrics.log_lost.inc,
        )
        self.scorer = Scorer(model, features, self._log, metrics, SETTINGS)

    @bentoml.on_startup  # type: ignore[untyped-decorator]
    def _freeze(self) -> None:
        """Take everything loaded so far out of garbage collection, whose full runs stall."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def _close(self) -> None:
        self._log.close()

    def __is_ready__(self) -> bool:
        """Whether Redis answers; the model is loaded or there is no service."""
        return not self.scorer.features.away

    @bentoml.api(output_spec=Prediction)  # type: ignore[untyped-decorator]
    def predict(self, request: PredictRequest, /) -> Prediction | Response:
        """Rank items by the probability that the shopper buys them in their next session."""
        answers = self._answer([request])
        return answers if isinstance(answers, Response) else answers[0]

    @bentoml.api(output_spec=BatchResponse)  # type: ignore[untyped-decorator]
    def predict_batch(self, batch: BatchRequest, /) -> BatchResponse | Response:
        """Rank items for several shoppers: features are read and scored once for all."""
        answers = self._answer(batch.requests)
        if isinstance(answers, Response):
            return answers
        return BatchResponse(predictions=answers)

    def _answer(self, requests: list[PredictRequest]) -> list[Prediction] | Response:
        try:
            return self.scorer.answer(requests)
        except ContextError as error:
            return JSONResponse({"error": str(error)}, 400)
        except FeaturesAwayError:
            return JSONResponse({"error": "The feature store does not answer."}, 503)


Nextbuy.add_asgi_middleware(Guard, settings=SETTINGS)  # type: ignore[attr-defined]


def _is_ours(record: logging.LogRecord) -> bool:
    """Leave out BentoML's traceback for each request that is not valid: it names the input."""
    return not (record.exc_info and isinstance(record.exc_info[1], ValidationError))


def _end_server() -> None:
    """End `bentoml serve`: its arbiter would start a worker that cannot work for ever."""
    if bentoml.server_context.worker_index:  # set by the arbiter alone, our parent then
        os.kill(os.getppid(), signal.SIGTERM)
