"""Online features of one request as columns, in one round trip.

    reader = OnlineReader(FeatureStore("feature_repo"), "next_session_purchase")
    features = reader.read({"user_id": ["u1"], "item_id": ["i1", "i2", "i3"]})
    features.matrix(["item__price", "user__n_views_7d"])

Everything that does not depend on the request is computed once, when the reader is made. Feast's
own `get_online_features` reads the same hashes, through a protobuf message per value.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import pyarrow as pa
import redis
from feast import FeatureService, FeatureStore
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.online_stores.redis import RedisType
from feast.utils import _get_feature_views_to_use, _group_feature_refs
from feast.value_type import ValueType

from nextbuy.errors import NextbuyError
from nextbuy.stores.online.decoding import HashViewReader, PackedViewReader, ViewReader
from nextbuy.stores.online.encoding import SCALARS, argument, command
from nextbuy.stores.online.feature_batch import FeatureBatch, ReadPlan
from nextbuy.stores.online.layout import clock_key, redis_layout
from nextbuy.stores.online.request import (
    ConnectionPerThread,
    KeyEncoder,
    RowPositions,
    explain_read_errors,
)
from nextbuy.stores.online.store import NextbuyOnlineStore
from nextbuy.times import to_us


class OnlineReader:
    """Reads the features of one feature service.

    Args:
        store: a Feast store whose online store is `NextbuyOnlineStore`.
        feature_service: the service or its name; looked up once.

    Raises:
        NextbuyError: the store's online store is another one, or a Redis cluster.
    """

    def __init__(self, store: FeatureStore, feature_service: FeatureService | str) -> None:
        online = store.provider.online_store
        if not isinstance(online, NextbuyOnlineStore):
            raise NextbuyError(
                "OnlineReader needs the online store nextbuy.stores.online.NextbuyOnlineStore in "
                f"feature_store.yaml, not {store.config.online_store.type}."
            )
        if store.config.online_store.redis_type == RedisType.redis_cluster:
            raise NextbuyError(
                "OnlineReader, and our service with it, reads many rows by one command, which a "
                "Redis cluster does not answer. Name a single Redis by REDIS_URL; Feast's "
                "get_online_features works with a cluster."
            )
        name = feature_service if isinstance(feature_service, str) else feature_service.name
        feature_service = store.get_feature_service(name)
        self._online, self._config = online, store.config
        self._connections: ConnectionPerThread | None = None
        refs = [
            f"{projection.name_to_use()}:{feature.name}"  # type: ignore[no-untyped-call]
            for projection in feature_service.feature_view_projections
            for feature in projection.features
        ]
        views, on_demand = _get_feature_views_to_use(
            store.registry, store.project, feature_service, hide_dummy_entity=False
        )
        plain, derived = _group_feature_refs(refs, views, on_demand)
        if store.config.registry.enable_online_feature_view_versioning:
            for view, _ in plain:  # Feast's copies for a service do not say which is current
                if view.projection.version_tag is None:
                    current = store.registry.get_any_feature_view(view.name, store.project)
                    view.current_version_number = current.current_version_number
        self._derived: list[tuple[Any, set[str]]] = [(view, set(names)) for view, names in derived]
        self._views = [self._view_reader(view, names) for view, names in plain]
        self._encoders, self._columns = _encoders(self._views)
        read = [
            f"{view.projection.name_to_use()}__{n}"  # type: ignore[no-untyped-call]
            for view, names in plain
            for n in names
        ]
        requested = [ref.replace(":", "__", 1) for ref in refs]
        self._order = [name for name in requested if name in set(read)]
        self._inputs = [name for name in read if name not in set(requested)]
        self._plan = ReadPlan([_full_names(view) for view in self._views], self._order, set(read))
        self._ttls = [view.ttl for view in self._views]
        self._by_data = self._config.online_store.clock == "data"
        self._clock = command(b"GET", clock_key(store.project)) if self._by_data else b""

    @property
    def features(self) -> list[str]:
        """Full names of the features, in the service's order; those of on-demand views last."""
        derived = [
            f"{view.projection.name_to_use()}__{name}"
            for view, names in self._derived
            for name in sorted(names)
        ]
        return [*self._order, *derived]

    @property
    def join_keys(self) -> list[str]:
        """The columns that `read` needs (beside the request data of on-demand views)."""
        return sorted({key for view in self._views for key in view.key_columns})

    def use_client(self, client: redis.Redis) -> None:
        """Read through this client from now on, and the store with it."""
        self._online.use_client(client)
        self._connections = self._online.connections(self._config)

    def _view_reader(self, view: Any, names: list[str]) -> ViewReader:
        layout = redis_layout(self._config, view)
        kinds = {feature.name: feature.dtype.to_value_type() for feature in view.features}
        mapping = view.projection.join_key_map
        keys = [mapping.get(key, key) for key, _ in layout.join_keys if key != DUMMY_ENTITY_ID]
        reader = PackedViewReader if layout.packed else HashViewReader
        features = {name: kinds[name] for name in names}
        return reader(layout, view.projection.name_to_use(), keys, features, self._config)

    def read(
        self, entity_columns: Mapping[str, Sequence[Any]], now: datetime | None = None
    ) -> FeatureBatch:
        """The features of each row of the entity columns.

        A column of one value stands for all rows. Entities that are unknown or null, and rows
        older than their view's TTL at `now` (by default the store's clock), have no values.

        Raises:
            NextbuyError: a join key is missing, has the wrong type or another length, or Redis is
                away.
        """
        request = self.request(entity_columns)
        replies = self.send(request) if request.commands else []
        return self._batch(request, replies, entity_columns, now)

    def send(self, request: "ReadRequest") -> list[Any]:
        """The replies to a request's commands, as Redis gives them.

        Raises:
            NextbuyError: Redis is away or refuses.
        """
        with explain_read_errors():
            if self._connections is None:
                self._connections = self._online.connections(self._config)
            return self._connections.execute(request.commands, request.replies)

    def request(self, entity_columns: Mapping[str, Sequence[Any]]) -> "ReadRequest":
        """The commands that read the features of these rows, each key once.

        Raises:
            NextbuyError: a join key is missing, or has the wrong type or another length.
        """
        lengths = {len(values) for values in entity_columns.values()} or {1}
        rows = max(lengths)
        if lengths - {1, rows}:
            raise NextbuyError(
                "The entity columns have different lengths: "
                + ", ".join(f"{name} {len(values)}" for name, values in entity_columns.items())
                + ". Give one value per row, or one for all rows."
            )
        try:
            encoded = [encode(entity_columns[name]) for name, encode in self._encoders]
        except KeyError as missing:
            raise NextbuyError(
                f"The request lacks the join key {missing}; it takes {', '.join(self.join_keys)}."
            ) from None
        mget, hashes, packed, replies = [], [], 0, 0
        parts: list[tuple[int, RowPositions]] = []
        for view, columns in zip(self._views, self._columns, strict=True):
            keys, count, positions = view.keys([encoded[column] for column in columns])
            parts.append((count, positions))
            if isinstance(view, HashViewReader):
                hashes.append(keys)
                replies += count
            else:
                mget.append(keys)
                packed += count
        opening = _mget_opening(packed) if packed else b""
        return ReadRequest(
            b"".join([opening, *mget, *hashes, self._clock]),
            bool(packed) + replies + self._by_data,
            rows,
            bool(packed),
            parts,
        )

    def _batch(
        self,
        request: "ReadRequest",
        replies: list[Any],
        entity_columns: Mapping[str, Sequence[Any]],
        now: datetime | None,
    ) -> FeatureBatch:
        if now is not None:
            us = to_us(now)
        elif self._by_data:
            us = int(replies[-1] or 0)
        else:
            us = time.time_ns() // 1000
        packed, hashes = 0, int(request.packed)  # the next reply of either kind
        rows = []
        for view, (count, positions) in zip(self._views, request.parts, strict=True):
            if isinstance(view, HashViewReader):
                part = replies[hashes : hashes + count]
                hashes += count
            else:
                part = replies[0][packed : packed + count] if count else []
                packed += count
            rows.append(view.decode(part, positions))
        batch = FeatureBatch(self._plan, rows, request.rows, us, self._ttls)
        if self._derived:
            read = {name: batch[name] for name in self._order + self._inputs}
            self._derive(batch, pa.table(read), entity_columns)
        return batch

    def _derive(
        self, batch: FeatureBatch, inputs: pa.Table, entity_columns: Mapping[str, Sequence[Any]]
    ) -> None:
        for name, values in entity_columns.items():
            values = list(values) * (batch.rows if len(values) == 1 else 1)
            inputs = inputs.append_column(name, pa.array(values))
        for view, names in self._derived:
            prefix = view.projection.name_to_use()
            result = _transformed(view, inputs)
            kinds = {field.name: field.dtype.to_value_type() for field in view.features}
            for name in sorted(names):
                column = result[f"{prefix}__{name}"]
                batch.derived[f"{prefix}__{name}"] = _as_declared(column, kinds[name], view, name)


class ReadRequest(NamedTuple):
    """The commands that read a request, and which replies belong to which view."""

    commands: bytes
    """One MGET for all packed rows, one HMGET for each hash."""
    replies: int
    rows: int
    packed: bool
    """Whether the first reply is that of an MGET."""
    parts: list[tuple[int, RowPositions]]
    """Per view, the number of its keys and which of them is each row's."""


def _transformed(view: Any, inputs: pa.Table) -> Any:
    """An on-demand view's features by full name; one that takes a single row gets each by itself.

    (Stock Feast gives it the first row only.)
    """
    if view.mode != "python" or not view.singleton:
        return view.transform_arrow(inputs, full_feature_names=True)
    rows = [
        view.transform_dict({name: [value] for name, value in row.items()})
        for row in inputs.to_pylist()
    ]
    prefix = view.projection.name_to_use()
    return {
        f"{prefix}__{field.name}": [row.get(field.name) for row in rows] for field in view.features
    }


def _as_declared(column: Any, kind: ValueType, view: Any, name: str) -> pa.Array:
    """A result in its feature's type: pandas makes floats of integers beside a missing one."""
    try:
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        if isinstance(column, pa.Array) and kind in SCALARS:
            return column if column.type == SCALARS[kind] else column.cast(SCALARS[kind])
        return column if isinstance(column, pa.Array) else pa.array(column, SCALARS.get(kind))
    except pa.ArrowException as error:
        raise NextbuyError(
            f"The on-demand view {view.name!r} declares {name!r} as {kind.name}, but its function "
            f"gave another type: {error}"
        ) from None


@lru_cache(maxsize=1024)
def _mget_opening(keys: int) -> bytes:
    """An MGET of so many keys, up to the first of them."""
    packed = command(b"MGET", *[b""] * keys)
    return packed[: len(packed) - keys * len(argument(b""))]


def _encoders(
    views: Sequence[ViewReader],
) -> tuple[list[tuple[str, KeyEncoder]], list[list[int]]]:
    """The encoder of each column of a request, with its name, and the columns of each view.

    A column is encoded once for all views that look it up as the same type.
    """
    numbers: dict[tuple[str, ValueType], int] = {}
    encoders: list[tuple[str, KeyEncoder]] = []
    columns = []
    for view in views:
        own = list(zip(view.key_columns, view.kinds, strict=True))
        for name, kind in own:
            if (name, kind) not in numbers:
                numbers[name, kind] = len(encoders)
                encoders.append((name, KeyEncoder(name, kind)))
        columns.append([numbers[each] for each in own])
    return encoders, columns


def _full_names(view: ViewReader) -> tuple[str, list[list[str]], list[str]]:
    numbers = [[f"{view.title}__{name}" for name in names] for names in view.numbers]
    return view.title, numbers, [f"{view.title}__{name}" for name in view.others]
