"""The challenger scores what the champion has answered, for the log alone.

It works behind the answers, on a thread of its own with a bounded queue: it can delay none, change
none and fail none. What it could not score is counted. Features are read again by its own contract,
which need not be the champion's.
"""

import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bento.metrics import Metrics
from bento.model import Model
from bento.overrides import Context, apply
from bento.pairs import Pairs, ranked
from bento.prediction_writer import PredictionLog, Scored
from bento.reader import FeaturesUnavailableError, OnlineFeatures
from bento.schemas import Prediction, PredictRequest

WAITING = 1_000
"""Calls that wait to be scored; what comes on top is left out and counted."""

logger = logging.getLogger("bentoml.nextbuy")


@dataclass(frozen=True)
class _Answered:
    requests: Sequence[PredictRequest]
    answers: Sequence[Prediction]
    pairs: Pairs


class Shadow:
    """Scores beside the model that answers."""

    def __init__(
        self, model: Model, features: OnlineFeatures, log: PredictionLog, metrics: Metrics
    ) -> None:
        self.model = model
        self._features = features
        self._log = log
        self._metrics = metrics
        self._context = Context(model.contract)
        self._waiting: queue.Queue[_Answered | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def put(
        self, requests: Sequence[PredictRequest], answers: Sequence[Prediction], pairs: Pairs
    ) -> None:
        """Take what was answered, or count it as left out. Returns at once."""
        if not pairs.items:
            return
        try:
            self._waiting.put_nowait(_Answered(requests, answers, pairs))
        except queue.Full:
            self._metrics.shadow_lost.inc(len(pairs.items))

    def close(self) -> None:
        """Score what waits; afterwards nothing is taken any more."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (answered := self._waiting.get()) is not None:
            try:
                self._score(answered)
            except FeaturesUnavailableError:
                self._metrics.shadow_lost.inc(len(answered.pairs.items))
            except Exception:
                # Whatever is wrong with the challenger, the champion goes on.
                logger.exception("%s could not score", self.model.tag)
                self._metrics.shadow_lost.inc(len(answered.pairs.items))

    def _score(self, answered: _Answered) -> None:
        pairs = answered.pairs
        matrix = self._features.read(pairs.users, pairs.items).matrix
        for part, request in zip(pairs.slices, answered.requests, strict=True):
            apply(self._context.changes_where_known(request), pairs.items[part], matrix[part])
        probabilities = self.model.booster.predict(matrix)
        for part, request, answer in zip(
            pairs.slices, answered.requests, answered.answers, strict=True
        ):
            order = ranked(pairs.items, probabilities, part)
            if order:
                self._log.put(
                    Scored(
                        request_id=answer.request_id,
                        predicted_at=answer.predicted_at,
                        read_at=None,  # later than the answer
                        user_id=answer.user_id,
                        item_ids=[pairs.items[row] for row in order],
                        probabilities=probabilities[order],
                        ranks=np.arange(1, len(order) + 1, dtype=np.int32),
                        model=self.model.tag,
                        is_shadow=True,
                        is_degraded=False,
                        has_reasons=False,
                        has_context=bool(request.context),
                        matrix=matrix[order],
                    )
                )
        self._metrics.shadow_rows.inc(len(pairs.items))
