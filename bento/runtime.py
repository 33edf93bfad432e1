"""What a worker process holds: models with their features, the log, and the way in for events."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse, Response

from bento.event_writer import Intake
from bento.metrics import process_metrics
from bento.model import Model
from bento.overrides import ContextError
from bento.prediction_writer import PredictionLog
from bento.reader import FeaturesUnavailableError, OnlineFeatures
from bento.schemas import Prediction, PredictRequest
from bento.scorer import Scorer
from bento.settings import ServiceSettings
from bento.shadow import Shadow
from nextbuy.settings import Settings


class Runtime:
    """Answers requests and takes events."""

    def __init__(self, service: ServiceSettings, stored: Any, stored_shadow: Any = None) -> None:
        """Load models of BentoML's store and check them against the feature registry.

        Raises:
            NextbuyError: a model does not fit the registry, or is none of ours.
        """
        settings = Settings()
        metrics = process_metrics()
        model, features = _load(settings, service, stored)
        challenger = _load(settings, service, stored_shadow) if stored_shadow else None
        self._log = PredictionLog(
            settings,
            service.log_rows,
            service.log_seconds,
            on_written=metrics.logged.inc,
            on_lost=metrics.log_lost.inc,
        )
        self._shadow = Shadow(*challenger, self._log, metrics) if challenger else None
        self.intake = Intake(settings, service)
        self.scorer = Scorer(model, features, self._log, metrics, service, self._shadow)

    def answer(self, requests: Sequence[PredictRequest]) -> list[Prediction] | Response:
        """The answers, in the order of the requests, or why there are none."""
        try:
            return self.scorer.answer(requests)
        except ContextError as error:
            return JSONResponse({"error": str(error)}, 400)
        except FeaturesUnavailableError:
            return JSONResponse({"error": "The feature store does not answer."}, 503)

    def close(self) -> None:
        """Finish what waits: shadow scores, events, the log."""
        if self._shadow is not None:
            self._shadow.close()
        self.intake.close()
        self._log.close()


def _load(
    settings: Settings, service: ServiceSettings, stored: Any
) -> tuple[Model, OnlineFeatures]:
    with _without("sklearn"):  # the boosters' wrappers for it are not used here, and take a second
        model = Model(str(stored.tag), Path(stored.path))
    budget = timedelta(milliseconds=service.time_budget_ms)
    return model, OnlineFeatures(settings, model.contract, budget)


@contextmanager
def _without(library: str) -> Iterator[None]:
    """Make an optional library look absent to what is imported meanwhile."""
    if library in sys.modules:
        yield
        return
    sys.modules[library] = None  # type: ignore[assignment]  # makes its import fail
    try:
        yield
    finally:
        del sys.modules[library]
