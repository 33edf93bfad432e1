"""Online features of one request as columns, in one round trip.

    reader = OnlineReader(FeatureStore("feature_repo"), "next_session_purchase")
    block = reader.read({"user_id": ["u1"], "item_id": ["i1", "i2", "i3"]})
    block.matrix(["item__price", "user__n_views_7d"])

Everything that does not depend on the request is worked out once, when the reader is made. Feast's
own `get_online_features` reads the same hashes, through a protobuf message per value.
"""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa
from feast import FeatureService, FeatureStore
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.online_stores.redis import RedisType
from feast.utils import _get_feature_views_to_use, _get_features, _group_feature_refs
from feast.value_type import ValueType

from nextbuy.errors import NextbuyError
from nextbuy.stores.online.block import Block, Plan
from nextbuy.stores.online.decoding import HashView, PackedView, ViewReader
from nextbuy.stores.online.keys import Encoder, Places
from nextbuy.stores.online.layout import clock_key, layout
from nextbuy.stores.online.store import NextbuyOnlineStore
from nextbuy.stores.online.wire import bulk, command, first_error, header, reading
from nextbuy.times import EPOCH, MICROSECOND


class OnlineReader:
    """Reads the features of one feature service.

    Args:
        store: a Feast store whose online store is `NextbuyOnlineStore`.
        feature_service: the service or its name; looked up once.

    Raises:
        NextbuyError: the store's online store is another one, or a Redis cluster.
    """

    def __init__(self, store: FeatureStore, feature_service: FeatureService | str) -> None:
        online = store._get_provider().online_store
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
        if isinstance(feature_service, str):
            feature_service = store.get_feature_service(feature_service)
        self._config, self._online = store.config, online
        refs = _get_features(store.registry, store.project, feature_service)
        views, on_demand = _get_feature_views_to_use(
            store.registry, store.project, feature_service, hide_dummy_entity=False
        )
        plain, derived = _group_feature_refs(refs, views, on_demand)
        self._derived: list[tuple[Any, set[str]]] = [(view, set(names)) for view, names in derived]
        self._views = [self._view_reader(view, names) for view, names in plain]
        self._encoders, self._columns = _encoders(self._views)
        read = [
            f"{view.projection.name_to_use()}__{n}"  # type: ignore[no-untyped-call]
            for view, names in plain
            for n in names
        ]
        asked = [ref.replace(":", "__", 1) for ref in refs]
        self._order = [name for name in asked if name in set(read)]
        self._inputs = [name for name in read if name not in set(asked)]
        self._plan = Plan([_full(view) for view in self._views], self._order, set(read))
        self._ttls = [view.ttl for view in self._views]
        self._by_data = self._config.online_store.clock == "data"
        self._clock = command(b"GET", clock_key(store.project)) * self._by_data

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
        return sorted({key for view in self._views for key in view.asked})

    def _view_reader(self, view: Any, names: list[str]) -> ViewReader:
        into = layout(self._config, view)
        kinds = {feature.name: feature.dtype.to_value_type() for feature in view.features}
        mapping = view.projection.join_key_map
        asked = [mapping.get(key, key) for key, _ in into.join_keys if key != DUMMY_ENTITY_ID]
        reader = PackedView if into.packing else HashView
        features = {name: kinds[name] for name in names}
        return reader(into, view.projection.name_to_use(), asked, features, self._config)

    def read(
        self, entity_columns: Mapping[str, Sequence[Any]], now: datetime | None = None
    ) -> Block:
        """The features of each row of the entity columns.

        A column of one value stands for all rows. Entities that are unknown or null, and rows
        older than their view's TTL at `now` (by default the store's clock), have no values.

        Raises:
            NextbuyError: a join key is missing, has the wrong type or another length, or Redis is
                away.
        """
        request = self.request(entity_columns)
        replies: list[Any] = []
        if request.commands:
            with reading():
                replies = self._online.ask(self._config, request.commands, request.replies)
        return self._block(request, replies, entity_columns, now)

    async def read_async(
        self, entity_columns: Mapping[str, Sequence[Any]], now: datetime | None = None
    ) -> Block:
        """As `read`, without holding up the event loop."""
        request = self.request(entity_columns)
        replies: list[Any] = []
        if request.commands:
            with reading():
                client = await self._online._get_client_async(self._config.online_store)
                replies = await _ask_async(client, request)
                if refusal := first_error(replies):
                    raise refusal
        return self._block(request, replies, entity_columns, now)

    def request(self, entity_columns: Mapping[str, Sequence[Any]]) -> "Request":
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
        parts: list[tuple[int, Places]] = []
        for view, columns in zip(self._views, self._columns, strict=True):
            keys, count, places = view.keys.on_wire([encoded[column] for column in columns])
            parts.append((count, places))
            if view.packed:
                mget.append(keys)
                packed += count
            else:
                hashes.append(keys)
                replies += count
        opening = [header(1 + packed), bulk(b"MGET")] if packed else []
        return Request(
            b"".join([*opening, *mget, *hashes, self._clock]),
            bool(packed) + replies + self._by_data,
            rows,
            bool(packed),
            parts,
        )

    def _block(
        self,
        request: "Request",
        replies: list[Any],
        entity_columns: Mapping[str, Sequence[Any]],
        now: datetime | None,
    ) -> Block:
        if now is not None:
            us = (now - EPOCH) // MICROSECOND
        elif self._by_data:
            us = int(replies[-1] or 0)
        else:
            us = time.time_ns() // 1000
        packed, at, hashes = 0, int(request.packed), replies
        rows = []
        for view, (count, places) in zip(self._views, request.parts, strict=True):
            if view.packed:
                part = replies[0][packed : packed + count] if count else []
                packed += count
            else:
                part = hashes[at : at + count]
                at += count
            rows.append(view.decode(part, places))
        block = Block(self._plan, rows, request.rows, us, self._ttls)
        if self._derived:
            read = {name: block[name] for name in self._order + self._inputs}
            self._derive(block, pa.table(read), entity_columns)
        return block

    def _derive(
        self, block: Block, inputs: pa.Table, entity_columns: Mapping[str, Sequence[Any]]
    ) -> None:
        for name, values in entity_columns.items():
            values = list(values) * (block.rows if len(values) == 1 else 1)
            inputs = inputs.append_column(name, pa.array(values))
        for view, names in self._derived:
            result = view.transform_arrow(inputs, full_feature_names=True)
            prefix = view.projection.name_to_use()
            for name in sorted(names):
                block.derived[f"{prefix}__{name}"] = result[f"{prefix}__{name}"].combine_chunks()


class Request(NamedTuple):
    """What is asked of Redis, and whose the replies are."""

    commands: bytes
    """One MGET for all packed rows, one HMGET for each hash."""
    replies: int
    rows: int
    packed: bool
    """Whether the first reply is that of an MGET."""
    parts: list[tuple[int, Places]]
    """Per view, the number of its keys and which of them is each row's."""


def _encoders(
    views: Sequence[ViewReader],
) -> tuple[list[tuple[str, Encoder]], list[list[int]]]:
    """What encodes each column of a request (by its name), and each view's columns.

    A column is encoded once for all views that look it up as the same type.
    """
    numbers: dict[tuple[str, ValueType], int] = {}
    encoders: list[tuple[str, Encoder]] = []
    columns = []
    for view in views:
        mine = list(zip(view.asked, view.kinds, strict=True))
        for name, kind in mine:
            if (name, kind) not in numbers:
                numbers[name, kind] = len(encoders)
                encoders.append((name, Encoder(name, kind)))
        columns.append([numbers[each] for each in mine])
    return encoders, columns


def _full(view: ViewReader) -> tuple[str, list[list[str]], list[str]]:
    numbers = [[f"{view.title}__{name}" for name in names] for names in view.numbers]
    return view.title, numbers, [f"{view.title}__{name}" for name in view.others]


async def _ask_async(client: Any, request: Request) -> list[Any]:
    pool = client.connection_pool
    connection = await pool.get_connection()
    try:
        await connection.send_packed_command(request.commands)
        return [await connection.read_response() for _ in range(request.replies)]
    except BaseException:
        await connection.disconnect(nowait=True)
        raise
    finally:
        await pool.release(connection)
