"""Online features of (shopper, item) pairs, as the model's matrix.

The one place of the service that reads Feast and Redis. While Redis is away, item features as last
read by this process stand in (`ItemFeatureCache`).
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import redis
from feast import FeatureStore
from feast.errors import FeastObjectNotFoundException
from feast.types import Bool, Float32, Float64, Int32, Int64, String
from numpy.typing import NDArray
from redis.backoff import NoBackoff
from redis.retry import Retry

from bento.schemas import PredictRequest
from nextbuy.contract import ModelContract
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.stores.online.reader import OnlineReader
from nextbuy.stores.online.redis_server import ensure_running

RECENT_ITEMS = "recent_items:item_ids"
"""Items that a shopper touched lately, the most recent first."""
NEVER = np.datetime64("NaT", "us")
SUBJECTS = {frozenset({"user_id"}): "shopper", frozenset({"item_id"}): "item"}
NUMERIC = (Bool, Float32, Float64, Int32, Int64)
PROBE_SECONDS = 0.5

T = TypeVar("T")
Times = NDArray[np.datetime64]


class FeaturesUnavailableError(Exception):
    """Redis did not answer within the time budget; the next request may fare better."""


@dataclass(frozen=True)
class ViewSchema:
    """A feature view of the contract's service."""

    name: str
    keys: frozenset[str]
    columns: NDArray[np.intp]
    """Which columns of the matrix come from it."""


@dataclass(frozen=True)
class FeatureDescription:
    """What the registry says of a feature, for people."""

    text: str
    """Its description, or its name where it has none."""
    subject: str
    unit: str


@dataclass(frozen=True)
class BoundContract:
    """A contract's features in Feast's registry."""

    service: Any
    """The feature service object: looked up once, because the look-up is slow."""
    views: tuple[ViewSchema, ...]
    descriptions: dict[str, FeatureDescription]


@dataclass(frozen=True)
class FeatureRows:
    """Features of n pairs, encoded as the model takes them."""

    matrix: NDArray[np.float32]
    """(n, features), in the contract's order; NaN is missing."""
    event_times: dict[str, Times]
    """View -> (n,) event timestamps of the values, NaT without a value."""


@dataclass(frozen=True)
class CandidateRows:
    """The pairs to score for several requests, one request's behind the other's.

    Row i is the pair (users[i], items[i]); `slices` holds each request's rows.
    """

    users: list[str]
    items: list[str]
    slices: list[slice]

    def ranked(self, rows: Iterable[int], probabilities: NDArray[np.float64]) -> list[int]:
        """These rows, the likeliest first; ties go by item id."""
        return sorted(rows, key=lambda row: (-probabilities[row], self.items[row]))

    def only(self, rows: Sequence[NDArray[np.intp]]) -> "CandidateRows":
        """The candidates without other rows than these, which are given request by request."""
        if sum(map(len, rows)) == len(self.items):
            return self
        kept = CandidateRows([], [], [])
        for part in rows:
            start = len(kept.items)
            kept.slices.append(slice(start, start + len(part)))
            kept.users.extend(self.users[row] for row in part)
            kept.items.extend(self.items[row] for row in part)
        return kept


def build_candidates(
    requests: Sequence[PredictRequest], recent_items: Mapping[str, list[str]]
) -> CandidateRows:
    """The pairs of the requests: the items they name, else those of `recent_items` by shopper."""
    candidates = CandidateRows([], [], [])
    for request in requests:
        items = request.item_ids
        if items is None:
            items = recent_items.get(request.user_id, [])
        items = list(dict.fromkeys(items))
        start = len(candidates.items)
        candidates.slices.append(slice(start, start + len(items)))
        candidates.users.extend([request.user_id] * len(items))
        candidates.items.extend(items)
    return candidates


class OnlineFeatures:
    """Reads a contract's features for requests, within a time budget.

    While Redis is away every read fails at once, and a thread probes for its return: no request
    waits for a server that is known to be away.
    """

    def __init__(
        self, settings: Settings, contract: ModelContract, budget: timedelta | None = None
    ) -> None:
        """Open the feature store and check the contract against its registry.

        Raises:
            NextbuyError: the registry lacks the service or a feature, or a type differs.
        """
        self._settings = settings
        self._contract = contract
        columns = dict(enumerate(contract.features))
        self._texts = [(i, n, contract.codes[n]) for i, n in columns.items() if n in contract.codes]
        self._numbers = [i for i, name in columns.items() if name not in contract.codes]
        self._number_names = tuple(contract.features[i] for i in self._numbers)
        self._store = FeatureStore(repo_path=str(settings.feature_repo))
        bound = bind(self._store, contract)
        self.views, self.descriptions = bound.views, bound.descriptions
        self._reader = OnlineReader(self._store, bound.service)
        self._has_recent_items = _has_recent_items(self._store)
        self._budget = budget
        self._filled = False
        self._client: redis.Redis | None = None
        self._closing = threading.Event()
        self._away = threading.Event()
        try:
            self._connect()
        except (NextbuyError, redis.RedisError):
            self._lose()

    @property
    def away(self) -> bool:
        """Whether Redis is known to be out of reach."""
        return self._away.is_set()

    def close(self) -> None:
        """Close the connections to Redis; nothing may be read afterwards."""
        self._closing.set()
        if self._client is not None:
            self._client.close()
        # Each thread that read holds a connection, which ends with the store. The client's connect
        # function makes a circle of this object and the store, and what a worker has loaded when it
        # starts is out of garbage collection: break the circle.
        del self._reader, self._store

    def read(self, user_ids: Sequence[str], item_ids: Sequence[str]) -> FeatureRows:
        """Features of the pairs (user_ids[i], item_ids[i]); the store drops what outlived its TTL.

        Raises:
            FeaturesUnavailableError: Redis did not answer in time.
        """
        if len(set(user_ids)) == 1:
            user_ids = user_ids[:1]  # one value stands for all rows, and is looked up once
        batch = self._query(lambda: self._reader.read({"user_id": user_ids, "item_id": item_ids}))
        timestamps = batch.timestamps  # the least integer, for no row, is NaT
        times = {view.name: timestamps[view.name].view("datetime64[us]") for view in self.views}
        # As `contract.matrix(batch)` gives it, without a trip through Arrow for each column.
        matrix = np.empty((batch.rows, len(self._contract.features)), np.float32)
        matrix[:, self._numbers] = batch.matrix(self._number_names)
        for place, name, codes in self._texts:
            column = batch.column(name)
            matrix[:, place] = [codes.get(value, np.nan) for value in column.values]
            matrix[~column.present, place] = np.nan
        return FeatureRows(matrix, times)

    def recent_items(self, user_ids: Sequence[str]) -> list[list[str]]:
        """Items that each shopper touched lately, the most recent first; empty for the unknown.

        Raises:
            FeaturesUnavailableError: Redis did not answer in time.
        """
        if not self._has_recent_items or not user_ids:
            return [[] for _ in user_ids]
        response = self._query(
            lambda: self._store.get_online_features(
                [RECENT_ITEMS], {"user_id": list(user_ids)}, full_feature_names=True
            )
        )
        item_ids = response.to_dict()[RECENT_ITEMS.replace(":", "__")]
        return [list(items or ()) for items in item_ids]

    def _query(self, query: Callable[[], T]) -> T:
        if self.away:
            raise FeaturesUnavailableError
        try:
            return query()
        except (NextbuyError, redis.RedisError, OSError):
            self._lose()
            raise FeaturesUnavailableError from None

    def _connect(self) -> None:
        seconds = self._budget.total_seconds() if self._budget else None
        client = redis.Redis.from_url(
            ensure_running(self._settings),
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 0),  # redis-py would try for seconds
            redis_connect_func=self._greet,
        )
        size: Any = client.dbsize()
        self._filled = size > 0
        # Feast takes no timeouts; its store reads through this client instead.
        self._reader.use_client(client)
        self._client = client

    def _greet(self, connection: Any) -> None:
        """On each new connection: with a Redis that lost its data everyone would be unknown."""
        connection.on_connect()
        connection.send_command("DBSIZE")
        if not connection.read_response() and self._filled:
            raise redis.ConnectionError("Redis is empty, and was not before")

    def _lose(self) -> None:
        if not self._away.is_set():
            self._away.set()
            threading.Thread(target=self._await_return, name="redis-probe", daemon=True).start()

    def _await_return(self) -> None:
        while not self._closing.wait(PROBE_SECONDS):
            try:
                self._connect()
            except (NextbuyError, redis.RedisError, OSError):
                continue
            self._away.clear()
            return


class ItemFeatureCache:
    """The item-level features of the items requested last, at most `size` of them.

    Shopper features are not cached: yesterday's shopper is a wrong number, an item's price is not.
    """

    def __init__(self, views: Sequence[ViewSchema], width: int, size: int) -> None:
        """`width` is the number of the model's features."""
        self._views = [view for view in views if view.keys == {"item_id"}]
        self._names = [view.name for view in views]
        self._columns = (
            np.concatenate([view.columns for view in self._views])
            if self._views
            else np.empty(0, np.intp)
        )
        self._width = width
        self._size = size
        # By hand: cachetools.LRUCache takes four times as long, for 50 items of every request.
        self._items: OrderedDict[str, tuple[NDArray[np.float32], list[np.datetime64]]]
        self._items = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, item_ids: Sequence[str], rows: FeatureRows) -> None:
        """Cache the item features of rows that were just read; row i is of item i."""
        if not self._views or not self._size:
            return
        values = rows.matrix[:, self._columns]  # a copy: overrides may change the matrix
        times = [rows.event_times[view.name] for view in self._views]
        with self._lock:
            for row, item in enumerate(item_ids):
                self._items[item] = (values[row], [column[row] for column in times])
                self._items.move_to_end(item)
            while len(self._items) > self._size:
                self._items.popitem(last=False)

    def recall(self, item_ids: Sequence[str]) -> FeatureRows:
        """A row per item, as far as its features are cached; all else is missing."""
        matrix = np.full((len(item_ids), self._width), np.nan, np.float32)
        times: dict[str, Times] = {name: np.full(len(item_ids), NEVER) for name in self._names}
        with self._lock:
            for row, item in enumerate(item_ids):
                if (cached := self._items.get(item)) is not None:
                    matrix[row, self._columns] = cached[0]
                    for view, moment in zip(self._views, cached[1], strict=True):
                        times[view.name][row] = moment
        return FeatureRows(matrix, times)


def bind(store: FeatureStore, contract: ModelContract) -> BoundContract:
    """Check a contract against the registry and look up its service, views and descriptions.

    Raises:
        NextbuyError: the registry lacks the service or a feature, or a type differs.
    """
    try:
        service: Any = store.get_feature_service(contract.feature_service)
    except FeastObjectNotFoundException:
        raise NextbuyError(
            f"The Feast registry has no feature service {contract.feature_service!r}, which the "
            "model was trained on. Register it: nextbuy apply"
        ) from None
    place = {name: i for i, name in enumerate(contract.features)}
    types: dict[str, Any] = {}
    views: list[ViewSchema] = []
    descriptions: dict[str, FeatureDescription] = {}
    for projection in service.feature_view_projections:
        view: Any = store.registry.get_any_feature_view(projection.name, store.project)
        title = projection.name_to_use()
        fields = {f"{title}__{field.name}": field for field in projection.features}
        types |= {name: field.dtype for name, field in fields.items()}
        columns = [place[name] for name in fields if name in place]
        if columns:
            keys = frozenset(getattr(view, "join_keys", ()))
            subject = SUBJECTS.get(keys, "shopper and item")
            descriptions |= {
                name: FeatureDescription(
                    field.description or field.name, subject, field.tags.get("unit", "")
                )
                for name, field in fields.items()
            }
            views.append(ViewSchema(title, keys, np.array(columns)))
    differing = [
        reason for name in contract.features if (reason := _difference(name, types, contract))
    ]
    if differing:
        raise NextbuyError(
            f"The model does not fit the Feast registry (service {contract.feature_service!r}): "
            f"{'; '.join(differing)}. Bring the registry up to date (nextbuy apply), or train and "
            "export a model on the present features (nextbuy train)."
        )
    return BoundContract(service, tuple(views), descriptions)


def _difference(name: str, types: dict[str, Any], contract: ModelContract) -> str | None:
    if name not in types:
        return f"{name} is not in the service"
    if name in contract.categories:
        if types[name] != String:
            return f"{name} is {types[name]} in the registry, a category in the model"
    elif types[name] not in NUMERIC:
        return f"{name} is {types[name]} in the registry, a number in the model"
    return None


def _has_recent_items(store: FeatureStore) -> bool:
    view, feature = RECENT_ITEMS.split(":")
    try:
        present = store.get_feature_view(view)
    except FeastObjectNotFoundException:
        return False
    return any(field.name == feature for field in present.features)
