"""Online features of one request as columns, in one round trip.

    reader = OnlineReader(FeatureStore("feature_repo"), "next_session_purchase")
    block = reader.read({"user_id": ["u1"], "item_id": ["i1", "i2", "i3"]})
    block.matrix(["item__price", "user__n_views_7d"])

Everything that does not depend on the request is worked out once, when the reader is made. Feast's
own `get_online_features` reads the same hashes, through a protobuf message per value.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureService, FeatureStore
from feast.feature_view import DUMMY_ENTITY_ID
from feast.utils import _get_feature_views_to_use, _get_features, _group_feature_refs
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError
from nextbuy.stores.decode import NEVER, Column, HashView, PackedView, ViewReader
from nextbuy.stores.online import NextbuyOnlineStore
from nextbuy.stores.wire import command, first_error, reading, wire
from nextbuy.stores.writer import clock_key, layout

EPOCH = datetime.fromtimestamp(0, UTC)
MICROSECOND = timedelta(microseconds=1)


@dataclass(frozen=True, repr=False)  # asyncio writes out what a task returned
class Block(Mapping[str, pa.Array]):
    """The answer to one request: features by full name (`view__feature`), as Arrow when asked.

    A mapping of columns, as `ModelContract.matrix` takes it.
    """

    columns: dict[str, Column]
    stamps: dict[str, NDArray[np.int64]]
    """Per view, each row's event timestamp in microseconds since 1970; the least integer where
    there is no row, or only one older than its TTL."""
    rows: int
    now: datetime
    """The time against which rows expired."""
    derived: dict[str, pa.Array] = field(default_factory=dict)
    """Features of on-demand views."""

    def __getitem__(self, name: str) -> pa.Array:
        found = self.columns.get(name)
        return self.derived[name] if found is None else found.to_arrow()

    def __iter__(self) -> Any:
        return iter([*self.columns, *self.derived])

    def __len__(self) -> int:
        return len(self.columns) + len(self.derived)

    def matrix(self, names: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Numeric features as float32 of shape (rows, names), NaN where a value is missing.

        Raises:
            KeyError: a name is not among the features.
            ValueError: a feature is text.
        """
        names = list(self) if names is None else names
        if not names:
            return np.empty((self.rows, 0), np.float32)
        columns = [self._numeric(name) for name in names]
        block = np.empty((len(names), self.rows), np.float32)
        for row, column in zip(block, columns, strict=True):
            row[:] = column.values
        block[~np.array([column.present for column in columns])] = np.nan
        return np.ascontiguousarray(block.T)

    def _numeric(self, name: str) -> Column:
        column = self.columns.get(name)
        if column is None:
            derived = self.derived[name]
            values = derived.cast(pa.float32()).to_numpy(zero_copy_only=False)
            column = Column(values, np.asarray(derived.is_valid()))
        if column.values.dtype == object:
            raise ValueError(f"{name} is not numeric; a model's contract has codes for text")
        return column

    def table(self) -> pa.Table:
        """All features as an Arrow table."""
        return pa.table({name: self[name] for name in self})

    def age(self, view: str) -> NDArray[np.float64]:
        """Seconds since each row's event timestamp in a view; NaN where there is no row."""
        stamps = self.stamps[view]
        seconds = ((self.now - EPOCH) // MICROSECOND - stamps) / 1e6
        return np.where(stamps == NEVER, np.nan, seconds)


class OnlineReader:
    """Reads the features of one feature service.

    Args:
        store: a Feast store whose online store is `NextbuyOnlineStore`.
        feature_service: the service or its name; looked up once.

    Raises:
        NextbuyError: the store's online store is another one.
    """

    def __init__(self, store: FeatureStore, feature_service: FeatureService | str) -> None:
        online = store._get_provider().online_store
        if not isinstance(online, NextbuyOnlineStore):
            raise NextbuyError(
                "OnlineReader needs the online store nextbuy.stores.online.NextbuyOnlineStore in "
                f"feature_store.yaml, not {store.config.online_store.type}."
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
        read = [name for _, names in self._views for name in names]
        asked = [ref.replace(":", "__", 1) for ref in refs]
        self._order = [name for name in asked if name in set(read)]
        self._inputs = [name for name in read if name not in set(asked)]
        self._clock = clock_key(store.project)
        self._by_data = self._config.online_store.clock == "data"

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
        return sorted({key for view, _ in self._views for key in view.asked})

    def _view_reader(self, view: Any, names: list[str]) -> tuple[ViewReader, list[str]]:
        into = layout(self._config, view)
        kinds = {feature.name: feature.dtype.to_value_type() for feature in view.features}
        mapping = view.projection.join_key_map
        asked = [mapping.get(key, key) for key, _ in into.join_keys if key != DUMMY_ENTITY_ID]
        title = view.projection.name_to_use()
        reader = PackedView if into.packing else HashView
        features = {name: kinds[name] for name in names}
        return reader(into, title, asked, features, self._config), [f"{title}__{n}" for n in names]

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
        request = _Request(self._views, entity_columns)
        with reading():
            with wire(self._online.client(self._config)) as line:
                line.send(request.bytes() + command(b"GET", self._clock) * self._by_data)
                replies = line.read(request.replies + self._by_data)
            if refusal := first_error(replies):
                raise refusal
        return self._block(request, replies, entity_columns, now)

    async def read_async(
        self, entity_columns: Mapping[str, Sequence[Any]], now: datetime | None = None
    ) -> Block:
        """As `read`, without holding up the event loop."""
        request = _Request(self._views, entity_columns)
        client = await self._online._get_client_async(self._config.online_store)
        commands = request.commands() + [(b"GET", self._clock)] * self._by_data
        with reading():
            if len(commands) == 1:
                replies = [await client.execute_command(*commands[0])]
            else:
                async with client.pipeline(transaction=False) as pipe:
                    for each in commands:
                        pipe.execute_command(*each)
                    replies = await pipe.execute()
        return self._block(request, list(replies), entity_columns, now)

    def _block(
        self,
        request: "_Request",
        replies: list[Any],
        entity_columns: Mapping[str, Sequence[Any]],
        now: datetime | None,
    ) -> Block:
        if now is None:
            now = datetime.now(UTC)
            if self._by_data:
                now = EPOCH + int(replies[-1] or 0) * MICROSECOND
        moment = (now - EPOCH) // MICROSECOND
        columns: dict[str, Column] = {}
        stamps: dict[str, NDArray[np.int64]] = {}
        for view, names, part, places in request.parts(replies):
            oldest = None if view.ttl is None else moment - view.ttl
            stamps[view.title], found = view.decode(part, places, oldest)
            columns.update(zip(names, found, strict=True))
        block = Block({n: columns[n] for n in self._order}, stamps, request.rows, now)
        if not self._derived:
            return block
        inputs = pa.table({name: columns[name].to_arrow() for name in self._order + self._inputs})
        return self._with_derived(block, inputs, entity_columns)

    def _with_derived(
        self, block: Block, inputs: pa.Table, entity_columns: Mapping[str, Sequence[Any]]
    ) -> Block:
        for name, values in entity_columns.items():
            values = list(values) * (block.rows if len(values) == 1 else 1)
            inputs = inputs.append_column(name, pa.array(values))
        derived = {}
        for view, names in self._derived:
            result = view.transform_arrow(inputs, full_feature_names=True)
            prefix = view.projection.name_to_use()
            for name in sorted(names):
                derived[f"{prefix}__{name}"] = result[f"{prefix}__{name}"].combine_chunks()
        return Block(block.columns, block.stamps, block.rows, block.now, derived)


class _Request:
    """The keys that a request needs, each once."""

    def __init__(
        self, views: list[tuple[Any, list[str]]], columns: Mapping[str, Sequence[Any]]
    ) -> None:
        self.rows = max(map(len, columns.values()), default=1)
        if any(len(values) not in (1, self.rows) for values in columns.values()):
            raise NextbuyError(
                "The entity columns have different lengths: "
                + ", ".join(f"{name} {len(values)}" for name, values in columns.items())
                + ". Give one value per row, or one for all rows."
            )
        self._views = []
        self._packed: list[bytes] = []
        self.replies = 0
        for view, names in views:
            try:
                mine = [columns[key] for key in view.asked]
            except KeyError as missing:
                raise NextbuyError(
                    f"The request lacks the join key {missing} of feature view {view.title!r}."
                ) from None
            keys, places = view.keys(mine, self.rows)
            self._views.append((view, names, keys, places))
            if view.packed:
                self._packed += keys
            else:
                self.replies += len(keys)
        self.replies += bool(self._packed)

    def bytes(self) -> bytes:
        """All commands: one MGET for the packed rows, one HMGET for each hash."""
        parts = [command(b"MGET", *self._packed)] if self._packed else []
        parts += [view.commands(keys) for view, _, keys, _ in self._views if not view.packed]
        return b"".join(parts)

    def commands(self) -> list[tuple[Any, ...]]:
        """The same commands, for a client that makes the bytes itself."""
        hashes = [(view, keys) for view, _, keys, _ in self._views if not view.packed]
        return [(b"MGET", *self._packed)] * bool(self._packed) + [
            (b"HMGET", key, *view.fields) for view, keys in hashes for key in keys
        ]

    def parts(
        self, replies: list[Any]
    ) -> Iterator[tuple[Any, list[str], list[Any], NDArray[np.intp] | None]]:
        """Each view with its features' names, its share of the replies and its rows' places."""
        packed, hashes = (replies[0], replies[1:]) if self._packed else ([], replies)
        at = {True: 0, False: 0}
        for view, names, keys, places in self._views:
            source, start = (packed if view.packed else hashes), at[view.packed]
            at[view.packed] = start + len(keys)
            yield view, names, source[start : start + len(keys)], places
