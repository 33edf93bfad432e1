"""The challenger scores what the champion has answered, for the prediction log alone.

It works behind the answers, on a thread of its own with a bounded queue: it can neither delay nor
change nor fail an answer. What it could not score is counted. Features are read again by its own
contract, which need not be the champion's.
"""

import logging
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bento.metrics import Metrics
from bento.model import Model
from bento.overrides import OverrideReader, apply_overrides
from bento.prediction_writer import PredictionRecord, PredictionWriter
from bento.reader import CandidateRows, FeaturesUnavailableError, OnlineFeatures
from bento.schemas import Prediction, PredictRequest

MAX_WAITING = 1_000
"""Calls that wait to be scored; more are left out and counted."""

logger = logging.getLogger("bentoml.nextbuy")


@dataclass(frozen=True)
class _AnsweredCall:
    requests: Sequence[PredictRequest]
    predictions: Sequence[Prediction]
    candidates: CandidateRows


class Shadow:
    """Scores beside the model that answers."""

    def __init__(
        self, model: Model, features: OnlineFeatures, writer: PredictionWriter, metrics: Metrics
    ) -> None:
        self.model = model
        self._features = features
        self._writer = writer
        self._metrics = metrics
        self._overrides = OverrideReader(model.contract)
        self._waiting: queue.Queue[_AnsweredCall | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._thread.start()

    def put(
        self,
        requests: Sequence[PredictRequest],
        predictions: Sequence[Prediction],
        candidates: CandidateRows,
    ) -> None:
        """Queue what was answered, or count it as left out. Returns at once."""
        if not candidates.items:
            return
        try:
            self._waiting.put_nowait(_AnsweredCall(requests, predictions, candidates))
        except queue.Full:
            self._metrics.shadow_lost.inc(len(candidates.items))

    def close(self) -> None:
        """Score what waits, end the thread and close the connections to Redis."""
        self._waiting.put(None)
        self._thread.join()
        self._features.close()

    def _work(self) -> None:
        while (call := self._waiting.get()) is not None:
            try:
                self._score(call)
            except FeaturesUnavailableError:
                self._metrics.shadow_lost.inc(len(call.candidates.items))
            except Exception:
                # Whatever is wrong with the challenger, the champion goes on.
                logger.exception("%s could not score", self.model.tag)
                self._metrics.shadow_lost.inc(len(call.candidates.items))

    def _score(self, call: _AnsweredCall) -> None:
        candidates = call.candidates
        matrix = self._features.read(candidates.users, candidates.items).matrix
        for part, request in zip(candidates.slices, call.requests, strict=True):
            overrides = self._overrides.read_applicable(request)
            apply_overrides(overrides, candidates.items[part], matrix[part])
        probabilities = self.model.booster.predict(matrix)
        for part, request, prediction in zip(
            candidates.slices, call.requests, call.predictions, strict=True
        ):
            order = candidates.ranked(range(part.start, part.stop), probabilities)
            if order:
                answered = {item["item_id"]: item for item in prediction.items}
                items = [answered[candidates.items[row]] for row in order]
                self._writer.put(
                    PredictionRecord(
                        request_id=prediction.request_id,
                        predicted_at=prediction.predicted_at,
                        as_of=prediction.as_of,
                        read_at=None,  # later than the answer
                        user_id=prediction.user_id,
                        item_ids=[item["item_id"] for item in items],
                        states=[item["state"] for item in items],
                        touched_at=[item["touched_at"] for item in items],
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
        self._metrics.shadow_rows.inc(len(candidates.items))
