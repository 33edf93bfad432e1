"""What a worker process holds: the active scorer, the prediction writer and the event writer."""

import logging
import os
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import bentoml

from bento.event_writer import EventWriter
from bento.export import DEPLOYMENT_FILE, Deployment
from bento.metrics import process_metrics
from bento.model import Model, horizon
from bento.prediction_writer import PredictionWriter
from bento.reader import OnlineFeatures
from bento.reload import DeploymentWatcher
from bento.scorer import ActiveScorer, Scorer
from bento.settings import ServiceSettings
from bento.shadow import Shadow
from nextbuy.live.health import LiveHealth, live_health
from nextbuy.log_span import LogSpan
from nextbuy.settings import Settings
from nextbuy.shop import identified_shop
from nextbuy.versioned_table import require

logger = logging.getLogger("bentoml.nextbuy")


class Runtime:
    """Makes what answers requests and takes events, and closes it."""

    def __init__(
        self,
        service: ServiceSettings,
        deployment: Deployment,
        stored: Any,
        stored_shadow: Any = None,
    ) -> None:
        """Load models of BentoML's store and check them against the feature registry.

        Args:
            service: limits and budgets.
            deployment: the tags of these models.
            stored: the model that answers.
            stored_shadow: the model that scores beside it.

        Raises:
            NextbuyError: a model does not fit the registry, or is none of ours.
        """
        self._settings = Settings()
        self.shop = identified_shop(self._settings)
        self._service = service
        self._metrics = process_metrics()
        self._writer = PredictionWriter(
            self._settings,
            service.log_rows,
            service.log_seconds,
            on_written=self._metrics.logged.inc,
            on_lost=self._metrics.log_lost.inc,
        )
        self.active = ActiveScorer(self._scorer(stored, stored_shadow))
        self.event_writer = EventWriter(self._settings, service)
        self._watcher = (
            DeploymentWatcher(Path(file), deployment, self._swap)
            if (file := os.environ.get(DEPLOYMENT_FILE))
            else None
        )

    def start(self) -> None:
        """Follow the deployment file, now that this worker answers."""
        if self._watcher is not None:
            self._watcher.start()

    def live_health(self) -> LiveHealth | None:
        """How live events are doing; None without any, or if their store cannot be read."""
        try:
            return live_health(self._settings)
        except sqlite3.Error as error:
            logger.warning("The live store cannot be read: %s", error)
            return None

    def why_not_ready(self) -> str | None:
        """Why a load balancer should ask another service, in a sentence."""
        if self.active.scorer.features.away:
            return "Redis does not answer, or is empty."
        limit = self._service.max_lag_seconds
        live = self.live_health() if limit else None
        if live is not None and live.oldest_seconds > limit:
            return (
                f"{live.waiting_events:,} live events wait, the oldest for "
                f"{live.oldest_seconds:,.0f} s; NEXTBUY_SERVICE_MAX_LAG_SECONDS is {limit:g}. "
                f"{live.cause} {live.remedy}"
            )
        return None

    def close(self) -> None:
        """Finish what waits: a swap, shadow scores, events, the prediction log."""
        if self._watcher is not None:
            self._watcher.close()
        self.active.scorer.close()
        self.event_writer.close()
        self._writer.close()

    def _swap(self, deployment: Deployment) -> None:
        stored = bentoml.models.get(deployment.model)
        stored_shadow = bentoml.models.get(deployment.shadow) if deployment.shadow else None
        self.active.replace(self._scorer(stored, stored_shadow))

    def _scorer(self, stored: Any, stored_shadow: Any) -> Scorer:
        model, features = self._load(stored)
        try:
            beside = self._load(stored_shadow) if stored_shadow else None
        except BaseException:
            features.close()
            raise
        shadow = Shadow(*beside, self._writer, self._metrics) if beside else None
        return Scorer(
            model,
            features,
            self._writer,
            self._metrics,
            self._service,
            horizon=horizon(model.contract, self._settings),
            at=self._present(),
            shadow=shadow,
        )

    def _present(self) -> datetime | None:
        """What stands for the clock; None: nothing does.

        Raises:
            NextbuyError: it is the end of the log, and no log is published.
        """
        at = self._service.at
        if at != "newest":
            return at
        sessions = require(self._settings.sessions, "nextbuy sessionize")
        return LogSpan.from_info(sessions.info).end

    def _load(self, stored: Any) -> tuple[Model, OnlineFeatures]:
        with _without("sklearn"):  # the boosters' wrappers for it are not used, and take a second
            model = Model(str(stored.tag), Path(stored.path))
        budget = timedelta(milliseconds=self._service.time_budget_ms)
        return model, OnlineFeatures(self._settings, model.contract, budget)


@contextmanager
def _without(library: str) -> Iterator[None]:
    """Make an optional library look absent to imports inside the block."""
    if library in sys.modules:
        yield
        return
    sys.modules[library] = None  # type: ignore[assignment]  # makes its import fail
    try:
        yield
    finally:
        del sys.modules[library]
