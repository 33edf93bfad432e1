"""From requests to ranked answers: read features, score once, rank each request."""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from bento.context import Context, apply
from bento.defaults import ItemDefaults
from bento.features import Block, FeaturesAwayError, OnlineFeatures
from bento.log import PredictionLog, Scored
from bento.messages import Prediction, PredictRequest, Reason, ScoredItem
from bento.metrics import Metrics
from bento.model import Model
from bento.pairs import Pairs, pairs_of, ranked
from bento.reasons import Explainer
from bento.settings import EXPLAINED, ServiceSettings
from bento.shadow import Shadow


class Scorer:
    """Answers requests with one model."""

    def __init__(
        self,
        model: Model,
        features: OnlineFeatures,
        log: PredictionLog,
        metrics: Metrics,
        settings: ServiceSettings,
        shadow: Shadow | None = None,
    ) -> None:
        self.model = model
        self.features = features
        self._log = log
        self._metrics = metrics
        self._shadow = shadow
        self._context = Context(model.contract)
        width = len(model.contract.features)
        self._defaults = ItemDefaults(features.views, width, settings.item_defaults)
        self._refuses = settings.without_redis == "refuse"
        self._stale = np.timedelta64(timedelta(hours=settings.stale_hours))
        self._explainer = Explainer(model, features.described)

    def answer(self, requests: Sequence[PredictRequest]) -> list[Prediction]:
        """The answers, in the order of the requests.

        Raises:
            ContextError: a request's context does not fit the model.
            FeaturesAwayError: Redis is away, and the service refuses rather than degrades.
        """
        with self._stage("total"):
            overrides = [self._context.changes(request) for request in requests]
            read_at = datetime.now(UTC)
            with self._stage("features"):
                pairs, block, degraded = self._read(requests)
            matrix = block.matrix
            for part, changes in zip(pairs.slices, overrides, strict=True):
                apply(changes, pairs.items[part], matrix[part])
            with self._stage("model"):
                probabilities = (
                    self.model.booster.predict(matrix) if len(matrix) else np.empty(0, np.float64)
                )
            orders = [ranked(pairs.items, probabilities, part) for part in pairs.slices]
            reasons = self._reasons(requests, orders, matrix)
            now = datetime.now(UTC)
            answers = [
                self._answer(
                    request, order, pairs, block, probabilities, reasons, read_at, now, degraded
                )
                for request, order in zip(requests, orders, strict=True)
            ]
        self._count(answers, block)
        if self._shadow is not None and not degraded:
            self._shadow.put(requests, answers, pairs)
        return answers

    def _read(self, requests: Sequence[PredictRequest]) -> tuple[Pairs, Block, bool]:
        try:
            pairs = pairs_of(requests, self._candidates(requests))
            block = (
                self.features.read(pairs.users, pairs.items)
                if pairs.items
                else self._defaults.recall([])
            )
        except FeaturesAwayError:
            self._metrics.degraded.inc(len(requests))
            if self._refuses:
                raise
            pairs = pairs_of(requests, {})
            return pairs, self._defaults.recall(pairs.items), True
        self._defaults.remember(pairs.items, block)
        return pairs, block, False

    def _candidates(self, requests: Sequence[PredictRequest]) -> dict[str, list[str]]:
        users = list(dict.fromkeys(r.user_id for r in requests if r.item_ids is None))
        return dict(zip(users, self.features.candidates(users), strict=True))

    def _reasons(
        self,
        requests: Sequence[PredictRequest],
        orders: Sequence[list[int]],
        matrix: NDArray[np.float32],
    ) -> dict[int, list[Reason]]:
        """Row of the matrix -> reasons, for the likeliest items of requests that ask."""
        counts = {
            row: request.reasons
            for request, order in zip(requests, orders, strict=True)
            if request.reasons
            for row in order[:EXPLAINED]
        }
        if not counts:
            return {}
        with self._stage("reasons"):
            rows = list(counts)
            found = self._explainer.explain(matrix[rows], max(counts.values()))
        return {row: why[: counts[row]] for row, why in zip(rows, found, strict=True)}

    def _answer(
        self,
        request: PredictRequest,
        order: list[int],
        pairs: Pairs,
        block: Block,
        probabilities: NDArray[np.float64],
        reasons: dict[int, list[Reason]],
        read_at: datetime,
        now: datetime,
        degraded: bool,
    ) -> Prediction:
        """`order` holds the request's rows, the likeliest first."""
        times = {name: _utc(values[order]) for name, values in block.event_times.items()}
        of_shopper = [view.name for view in self.features.views if view.keys == {"user_id"}]
        of_item = [view.name for view in self.features.views if view.keys == {"item_id"}]
        at = {name: times[name][0] if order else None for name in of_shopper}
        scored = [
            ScoredItem(
                item_id=pairs.items[row],
                probability=float(probabilities[row]),
                rank=place + 1,
                cold_start=bool(of_item) and all(times[name][place] is None for name in of_item),
                features_at={name: times[name][place] for name in times if name not in at},
                reasons=reasons.get(row),
            )
            for place, row in enumerate(order)
        ]
        prediction = Prediction(
            request_id=uuid.uuid4().hex,
            user_id=request.user_id,
            model=self.model.tag,
            predicted_at=now,
            cold_start=not order or (bool(at) and not any(at.values())),
            degraded=degraded,
            features_at=at,
            items=scored,
        )
        if order:
            self._log.put(
                Scored(
                    request_id=prediction.request_id,
                    predicted_at=now,
                    read_at=read_at,
                    user_id=request.user_id,
                    item_ids=[item.item_id for item in scored],
                    probabilities=probabilities[order],
                    ranks=np.arange(1, len(order) + 1, dtype=np.int32),
                    model=self.model.tag,
                    is_shadow=False,
                    is_degraded=degraded,
                    has_reasons=request.reasons > 0,
                    has_context=bool(request.context),
                    matrix=block.matrix[order],
                )
            )
        return prediction

    def _count(self, answers: Sequence[Prediction], block: Block) -> None:
        self._metrics.rows.inc(len(block.matrix))
        oldest = np.datetime64(answers[0].predicted_at.replace(tzinfo=None), "us") - self._stale
        for view, times in block.event_times.items():
            self._metrics.stale.labels(view).inc(int((times < oldest).sum()))  # NaT is not less
        self._metrics.cold_starts.labels("shopper").inc(sum(a.cold_start for a in answers))
        cold_items = sum(item.cold_start for answer in answers for item in answer.items)
        self._metrics.cold_starts.labels("item").inc(cold_items)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._metrics.stage_seconds.labels(name).observe(time.perf_counter() - started)


def _utc(times: NDArray[np.datetime64]) -> list[datetime | None]:
    return [None if t is None else t.replace(tzinfo=UTC) for t in times.tolist()]
