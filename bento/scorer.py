"""From requests to ranked answers: read features, score once, rank each request."""

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from starlette.responses import JSONResponse, Response

from bento.explanations import Explainer
from bento.metrics import Metrics
from bento.model import Model
from bento.overrides import OverrideError, OverrideReader, apply_overrides
from bento.prediction_writer import PredictionRecord, PredictionWriter
from bento.reader import (
    CandidateRows,
    FeatureRows,
    FeaturesUnavailableError,
    ItemFeatureCache,
    OnlineFeatures,
    build_candidates,
)
from bento.schemas import ItemState, Prediction, PredictRequest, Reason, ScoredItem
from bento.settings import EXPLAINED, ServiceSettings
from bento.shadow import Shadow
from nextbuy.times import MICROSECOND, NOT_SEEN_US, to_datetime, to_us

STAGES = ("features", "model", "reasons", "total")
STATES: tuple[ItemState, ...] = ("open", "expired", "untouched")


@dataclass(frozen=True)
class _Ages:
    """How old what is known of each candidate is, in microseconds since 1970."""

    as_of: NDArray[np.int64]
    last_event: NDArray[np.int64]
    """Of the shopper."""
    touched: NDArray[np.int64]
    """When the item's horizon began; `NOT_SEEN_US` for an item that was never touched."""
    states: list[ItemState]
    is_answered: NDArray[np.bool_]


@dataclass(frozen=True)
class _ScoredRows:
    """All candidates of a call, scored; arrays have one row per candidate."""

    candidates: CandidateRows
    features: FeatureRows
    ages: _Ages
    probabilities: NDArray[np.float64]
    """NaN where the item has no answer."""
    reasons: Mapping[int, list[Reason]]
    """By row, where a request asks for them."""
    read_at: datetime
    predicted_at: datetime
    degraded: bool


class Scorer:
    """Answers requests with one model; it does not change once it is made."""

    def __init__(
        self,
        model: Model,
        features: OnlineFeatures,
        writer: PredictionWriter,
        metrics: Metrics,
        settings: ServiceSettings,
        horizon: timedelta,
        at: datetime | None = None,
        shadow: Shadow | None = None,
    ) -> None:
        """Args beside the obvious:

        horizon: of the labels that the model learned from.
        at: the present, instead of the clock's; a shopper's later event moves it for them.
        """
        self.model = model
        self._horizon_us = horizon // MICROSECOND
        self._at_us = None if at is None else to_us(at)
        self.features = features
        self._writer = writer
        self._metrics = metrics
        self._shadow = shadow
        self._overrides = OverrideReader(model.contract)
        width = len(model.contract.features)
        self._item_cache = ItemFeatureCache(features.views, width, settings.item_defaults)
        self._refuses = settings.without_redis == "refuse"
        self._seconds = {name: metrics.stage_seconds.labels(name) for name in STAGES}
        self._cold_shoppers = metrics.cold_starts.labels("shopper")
        self._cold_items = metrics.cold_starts.labels("item")
        self._states = {state: metrics.items.labels(state) for state in (*STATES, "unknown")}
        self._stale_rows = {view.name: metrics.stale.labels(view.name) for view in features.views}
        self._shopper_views = [view.name for view in features.views if view.keys == {"user_id"}]
        self._item_views = [view.name for view in features.views if view.keys == {"item_id"}]
        self._row_views = [v.name for v in features.views if v.name not in self._shopper_views]
        pair = {"user_id", "item_id"}
        self._pair_views = [view.name for view in features.views if view.keys == pair]
        self._stale = np.timedelta64(timedelta(hours=settings.stale_hours))
        self._explainer = Explainer(model, features.descriptions)

    def close(self) -> None:
        """Score what waits in the shadow and close the connections to Redis."""
        if self._shadow is not None:
            self._shadow.close()
        self.features.close()

    def answer(self, requests: Sequence[PredictRequest]) -> list[Prediction]:
        """The answers, in the order of the requests.

        Raises:
            OverrideError: a request's context does not fit the model.
            FeaturesUnavailableError: Redis is away, and the service refuses rather than degrades.
        """
        with self._stage("total"):
            overrides = [self._overrides.read(r) if r.context else None for r in requests]
            read_at = datetime.now(UTC)
            with self._stage("features"):
                candidates, features, degraded = self._read(requests)
            matrix = features.matrix
            for part, values in zip(candidates.slices, overrides, strict=True):
                if values:
                    apply_overrides(values, candidates.items[part], matrix[part])
            ages = self._ages(requests, candidates, features, degraded)
            with self._stage("model"):
                probabilities = self._probabilities(matrix, ages.is_answered)
            answered = [
                np.flatnonzero(ages.is_answered[part]) + part.start for part in candidates.slices
            ]
            orders = [candidates.ranked(rows.tolist(), probabilities) for rows in answered]
            reasons = self._reasons(requests, orders, matrix)
            scored = _ScoredRows(
                candidates,
                features,
                ages,
                probabilities,
                reasons,
                read_at,
                predicted_at=datetime.now(UTC),
                degraded=degraded,
            )
            predictions = [
                self._prediction(request, part, order, scored)
                for request, part, order in zip(requests, candidates.slices, orders, strict=True)
            ]
        self._count(predictions, features)
        if self._shadow is not None and not degraded:
            self._shadow.put(requests, predictions, candidates.only(answered))
        return predictions

    def _read(self, requests: Sequence[PredictRequest]) -> tuple[CandidateRows, FeatureRows, bool]:
        """The candidates, their features, and whether Redis was away."""
        try:
            candidates = build_candidates(requests, self._recent_items(requests))
            features = (
                self.features.read(candidates.users, candidates.items)
                if candidates.items
                else self._item_cache.recall([])
            )
        except FeaturesUnavailableError:
            self._metrics.degraded.inc(len(requests))
            if self._refuses:
                raise
            candidates = build_candidates(requests, {})
            return candidates, self._item_cache.recall(candidates.items), True
        self._item_cache.remember(candidates.items, features)
        return candidates, features, False

    def _recent_items(self, requests: Sequence[PredictRequest]) -> dict[str, list[str]]:
        users = list(dict.fromkeys(r.user_id for r in requests if r.item_ids is None))
        return dict(zip(users, self.features.recent_items(users), strict=True))

    def _ages(
        self,
        requests: Sequence[PredictRequest],
        candidates: CandidateRows,
        features: FeatureRows,
        degraded: bool,
    ) -> _Ages:
        rows = len(candidates.items)
        last_event = _latest(features, self._shopper_views, rows)
        if self._at_us is None:
            as_of = np.full(rows, time.time_ns() // 1000)
        else:
            as_of = np.maximum(last_event, self._at_us)
        touched = _latest(features, self._pair_views, rows) if self._pair_views else last_event
        if degraded:
            return _Ages(as_of, last_event, touched, ["unknown"] * rows, np.ones(rows, np.bool_))
        is_untouched = touched == NOT_SEEN_US
        is_expired = ~is_untouched & (as_of > touched + self._horizon_us)
        is_answered = ~is_expired
        for part, request in zip(candidates.slices, requests, strict=True):
            if not request.untouched:
                is_answered[part] &= ~is_untouched[part]
        states = [STATES[code] for code in (is_expired + 2 * is_untouched).tolist()]
        return _Ages(as_of, last_event, touched, states, is_answered)

    def _probabilities(
        self, matrix: NDArray[np.float32], is_answered: NDArray[np.bool_]
    ) -> NDArray[np.float64]:
        """The booster's, for the rows that have an answer; NaN for the others."""
        if len(matrix) and is_answered.all():
            return self.model.booster.predict(matrix)
        probabilities = np.full(len(matrix), np.nan)
        if is_answered.any():
            probabilities[is_answered] = self.model.booster.predict(matrix[is_answered])
        return probabilities

    def _reasons(
        self,
        requests: Sequence[PredictRequest],
        orders: Sequence[list[int]],
        matrix: NDArray[np.float32],
    ) -> dict[int, list[Reason]]:
        """Row of the matrix -> reasons, for the likeliest items of requests that ask for them."""
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
            reasons = self._explainer.explain(matrix[rows], max(counts.values()))
        return {row: each[: counts[row]] for row, each in zip(rows, reasons, strict=True)}

    def _prediction(
        self, request: PredictRequest, part: slice, ranked: list[int], scored: _ScoredRows
    ) -> Prediction:
        """The answer to one request: the rows that are ranked, then the others of its part."""
        ages, item_ids = scored.ages, scored.candidates.items
        others = set(range(part.start, part.stop)).difference(ranked)
        order = ranked + sorted(others, key=lambda row: (-int(ages.touched[row]), item_ids[row]))
        times = {view: _utc(t[order]) for view, t in scored.features.event_times.items()}
        shopper_times = {view: times[view][0] if order else None for view in self._shopper_views}
        row_times = _by_row([times[view] for view in self._row_views], len(order))
        item_times = _by_row([times[view] for view in self._item_views], len(order))
        touched_us = ages.touched[order].tolist()
        probabilities = scored.probabilities[ranked]
        answers = [*enumerate(probabilities.tolist(), start=1), *[(None, None)] * len(others)]
        items = [
            ScoredItem(
                item_id=item_ids[row],
                probability=probability,
                rank=rank,
                state=ages.states[row],
                touched_at=_moment(us),
                horizon_ends=self._horizon_ends(us),
                cold_start=bool(item_at) and not any(item_at),
                features_at=dict(zip(self._row_views, row_at, strict=True)),
                reasons=scored.reasons.get(row),
            )
            for row, us, (rank, probability), item_at, row_at in zip(
                order, touched_us, answers, item_times, row_times, strict=True
            )
        ]
        as_of, last_event_us = scored.predicted_at, NOT_SEEN_US
        if order:
            last_event_us = int(ages.last_event[order[0]])
            if self._at_us is not None:
                as_of = to_datetime(int(ages.as_of[order[0]]))
        elif self._at_us is not None:
            as_of = to_datetime(self._at_us)
        last_event_at = _moment(last_event_us)
        prediction = Prediction.model_construct(  # ours: nothing to validate
            request_id=uuid.uuid4().hex,
            user_id=request.user_id,
            model=self.model.tag,
            predicted_at=scored.predicted_at,
            as_of=as_of,
            last_event_at=last_event_at,
            # A clock that runs behind must not tell of a time before the last event.
            age_seconds=last_event_at and max(0.0, (as_of - last_event_at).total_seconds()),
            horizon_ends=self._horizon_ends(last_event_us),
            cold_start=not order or (bool(shopper_times) and not any(shopper_times.values())),
            degraded=scored.degraded,
            features_at=shopper_times,
            items=items,
        )
        if ranked:
            self._writer.put(
                PredictionRecord(
                    request_id=prediction.request_id,
                    predicted_at=scored.predicted_at,
                    as_of=as_of,
                    read_at=scored.read_at,
                    user_id=request.user_id,
                    item_ids=[item_ids[row] for row in ranked],
                    states=[ages.states[row] for row in ranked],
                    touched_at=[item["touched_at"] for item in items[: len(ranked)]],
                    probabilities=probabilities,
                    ranks=np.arange(1, len(ranked) + 1, dtype=np.int32),
                    model=self.model.tag,
                    is_shadow=False,
                    is_degraded=scored.degraded,
                    has_reasons=request.reasons > 0,
                    has_context=bool(request.context),
                    matrix=scored.features.matrix[ranked],
                )
            )
        return prediction

    def _horizon_ends(self, us: int) -> datetime | None:
        return None if us == NOT_SEEN_US else _moment(us + self._horizon_us)

    def _count(self, predictions: Sequence[Prediction], features: FeatureRows) -> None:
        self._metrics.rows.inc(len(features.matrix))
        states = Counter(item["state"] for p in predictions for item in p.items)
        for state, count in states.items():
            self._states[state].inc(count)
        now = predictions[0].predicted_at.replace(tzinfo=None)
        oldest = np.datetime64(now, "us") - self._stale
        for view, times in features.event_times.items():
            self._stale_rows[view].inc(int((times < oldest).sum()))  # NaT is not less
        self._cold_shoppers.inc(sum(prediction.cold_start for prediction in predictions))
        self._cold_items.inc(sum(item["cold_start"] for p in predictions for item in p.items))

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[name].observe(time.perf_counter() - started)


class ActiveScorer:
    """The scorer that answers now; a reload replaces it while requests run."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._running: Counter[Scorer] = Counter()
        """Requests that a scorer is answering."""
        self._ended = threading.Condition()

    def answer(self, requests: Sequence[PredictRequest]) -> list[Prediction] | Response:
        """The answers of one scorer in the order of the requests, or a response that refuses."""
        with self._ended:
            scorer = self.scorer
            self._running[scorer] += 1
        try:
            return scorer.answer(requests)
        except OverrideError as error:
            return JSONResponse({"error": str(error)}, 400)
        except FeaturesUnavailableError:
            return JSONResponse({"error": "The feature store does not answer."}, 503)
        finally:
            with self._ended:
                self._running[scorer] -= 1
                self._ended.notify_all()

    def replace(self, scorer: Scorer) -> None:
        """Answer with another scorer; closes the present one after the requests that use it."""
        with self._ended:
            previous, self.scorer = self.scorer, scorer
            self._ended.wait_for(lambda: not self._running[previous])
            del self._running[previous]
        previous.close()


def _latest(features: FeatureRows, views: Sequence[str], rows: int) -> NDArray[np.int64]:
    """Row by row the latest event timestamp of these views; `NOT_SEEN_US` without any."""
    latest = np.full(rows, NOT_SEEN_US)
    for view in views:
        latest = np.maximum(latest, features.event_times[view].view(np.int64))
    return latest


def _by_row(columns: list[list[datetime | None]], rows: int) -> list[tuple[datetime | None, ...]]:
    return list(zip(*columns, strict=True)) if columns else [()] * rows


def _utc(times: NDArray[np.datetime64]) -> list[datetime | None]:
    return [_moment(us) for us in times.view(np.int64).tolist()]


@lru_cache(maxsize=100_000)  # most are a midnight, or none
def _moment(us: int) -> datetime | None:
    return None if us == NOT_SEEN_US else to_datetime(us)
