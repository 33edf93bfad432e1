"""From requests to ranked answers: read features, score once, rank each request."""

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bento.explanations import Explainer
from bento.fallback import ItemDefaults
from bento.metrics import Metrics
from bento.model import Model
from bento.overrides import Context, apply
from bento.pairs import Pairs, pairs_of, ranked
from bento.prediction_writer import PredictionLog, Scored
from bento.reader import NEVER, Block, FeaturesUnavailableError, OnlineFeatures
from bento.schemas import Prediction, PredictRequest, Reason, ScoredItem
from bento.settings import EXPLAINED, ServiceSettings
from bento.shadow import Shadow
from nextbuy.times import EPOCH, MICROSECOND

STAGES = ("features", "model", "reasons", "total")
NO_MOMENT = NEVER.astype(np.int64).item()


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
        self._seconds = {name: metrics.stage_seconds.labels(name) for name in STAGES}
        self._cold_shoppers = metrics.cold_starts.labels("shopper")
        self._cold_items = metrics.cold_starts.labels("item")
        self._stale_rows = {view.name: metrics.stale.labels(view.name) for view in features.views}
        self._of_shopper = [view.name for view in features.views if view.keys == {"user_id"}]
        self._of_item = [view.name for view in features.views if view.keys == {"item_id"}]
        self._of_rows = [v.name for v in features.views if v.name not in self._of_shopper]
        self._stale = np.timedelta64(timedelta(hours=settings.stale_hours))
        self._explainer = Explainer(model, features.described)

    def answer(self, requests: Sequence[PredictRequest]) -> list[Prediction]:
        """The answers, in the order of the requests.

        Raises:
            ContextError: a request's context does not fit the model.
            FeaturesUnavailableError: Redis is away, and the service refuses rather than degrades.
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
        except FeaturesUnavailableError:
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
        at = {name: times[name][0] if order else None for name in self._of_shopper}
        of_rows = _by_row([times[name] for name in self._of_rows], len(order))
        of_item = _by_row([times[name] for name in self._of_item], len(order))
        scored = [
            ScoredItem(
                item_id=pairs.items[row],
                probability=probability,
                rank=place,
                cold_start=bool(known) and not any(known),
                features_at=dict(zip(self._of_rows, moments, strict=True)),
                reasons=reasons.get(row),
            )
            for place, (row, probability, known, moments) in enumerate(
                zip(order, probabilities[order].tolist(), of_item, of_rows, strict=True), start=1
            )
        ]
        prediction = Prediction.model_construct(  # ours: nothing to validate
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
                    item_ids=[item["item_id"] for item in scored],
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
            self._stale_rows[view].inc(int((times < oldest).sum()))  # NaT is not less
        self._cold_shoppers.inc(sum(answer.cold_start for answer in answers))
        self._cold_items.inc(sum(item["cold_start"] for a in answers for item in a.items))

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[name].observe(time.perf_counter() - started)


def _by_row(columns: list[list[datetime | None]], rows: int) -> list[tuple[datetime | None, ...]]:
    return list(zip(*columns, strict=True)) if columns else [()] * rows


def _utc(times: NDArray[np.datetime64]) -> list[datetime | None]:
    return [_moment(us) for us in times.view(np.int64).tolist()]


@lru_cache(maxsize=100_000)  # most are a midnight, or none
def _moment(us: int) -> datetime | None:
    return None if us == NO_MOMENT else EPOCH + us * MICROSECOND
