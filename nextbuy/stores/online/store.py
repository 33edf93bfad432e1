"""Feast's Redis online store, written and read faster.

`type: nextbuy.stores.online.NextbuyOnlineStore` in feature_store.yaml. What lies in Redis is stock
Feast's layout: each reads what the other writes. With `packed`, the packed layout is written beside
it, for `nextbuy.stores.online.reader.OnlineReader`.
"""

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ByteString, Literal, Self

import redis
from feast.feature_view import FeatureView
from feast.infra.online_stores.redis import (
    RedisClient,
    RedisOnlineStore,
    RedisOnlineStoreConfig,
    RedisType,
)
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import model_validator
from redis import asyncio as redis_asyncio

from nextbuy.errors import NextbuyError
from nextbuy.stores import store_settings
from nextbuy.stores.online.encoded_rows import rows_from_protos
from nextbuy.stores.online.encoding import command
from nextbuy.stores.online.keys import batched, project_keys
from nextbuy.stores.online.layout import (
    TABLES,
    TIMESTAMP_OF,
    clock_key,
    hash_field,
    loaded_key,
    packed_key,
    redis_layout,
)
from nextbuy.stores.online.redis_server import ensure_running
from nextbuy.stores.online.removal import remove_prefix
from nextbuy.stores.online.request import ConnectionPerThread, explain_read_errors
from nextbuy.stores.online.writer import write
from nextbuy.times import to_datetime

TIMEOUTS = {"socket_timeout": 30.0, "socket_connect_timeout": 5.0}
CLOCK_SECONDS = 1.0  # a clock is read again after this time

WrittenRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
ReadRow = tuple[datetime | None, dict[str, Value] | None]


class NextbuyOnlineStoreConfig(RedisOnlineStoreConfig):
    """The `online_store` section of feature_store.yaml."""

    type: str = "nextbuy.stores.online.NextbuyOnlineStore"  # type: ignore[assignment]
    connection_string: str | None = None  # type: ignore[assignment]
    """A Redis in Feast's notation (`host:6379,db=0`). Unset: `REDIS_URL`, else the embedded one."""
    packed: bool = False
    """Write the packed layout beside the hashes. Needs Redis itself, not a cluster."""
    clock: Literal["wall", "data"] = "wall"
    """The clock for TTLs: the time of day, or the newest event timestamp written for the project,
    for historical logs. With `wall`, keys leave Redis when their rows expire."""

    @model_validator(mode="after")
    def _no_blind_writes(self) -> Self:
        """Refuse stock's option to write without a look at what is there."""
        if self.skip_dedup and self.redis_type != RedisType.redis_cluster:
            raise ValueError(
                "online_store: skip_dedup is not supported by NextbuyOnlineStore, which never puts "
                "an older row over a newer one. Remove the line"
            )
        return self


class NextbuyOnlineStore(RedisOnlineStore):
    """Stock Feast's reads and writes, except that

    - without a `connection_string` it uses `REDIS_URL` or starts the embedded server;
    - rows are written by transactions that never put an older row over a newer one;
    - rows older than their view's TTL are not served (stock serves them, feast issue 1802).
    """

    def __init__(self) -> None:
        super().__init__()
        self._ttls: dict[str, timedelta | None] = {}
        self._config: RepoConfig | None = None
        self._now: tuple[float, datetime] | None = None
        self._connections: ConnectionPerThread | None = None

    def client(self, config: RepoConfig) -> redis.Redis:
        """The Redis in use.

        Raises:
            NextbuyError: it is out of reach, or the embedded one did not start.
        """
        return self._get_client(config.online_store)

    def use_client(self, client: redis.Redis) -> None:
        """Read and write through this client from now on: with timeouts of the caller's, say."""
        self._client = client

    def connections(self, config: RepoConfig) -> ConnectionPerThread:
        """Connections of the Redis in use, for reads: one for each thread.

        Raises:
            NextbuyError: as `client`.
        """
        client = self.client(config)
        if self._connections is None or self._connections.client is not client:
            self._connections = ConnectionPerThread(client)
        return self._connections

    def _get_client(self, online_store_config: RedisOnlineStoreConfig) -> redis.Redis:
        if self._client is None and online_store_config.connection_string is None:
            self.use_client(redis.Redis.from_url(ensure_running(store_settings()), **TIMEOUTS))
        client: redis.Redis = super()._get_client(online_store_config)
        return client

    async def _get_client_async(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        if self._client_async is None and online_store_config.connection_string is None:
            url = await asyncio.to_thread(ensure_running, store_settings())
            self._client_async = redis_asyncio.Redis.from_url(url, **TIMEOUTS)
        return await super()._get_client_async(online_store_config)

    def now(self, config: RepoConfig) -> datetime:
        """The time against which rows expire."""
        if config.online_store.clock == "wall":
            return datetime.now(UTC)
        if self._now is None or time.monotonic() - self._now[0] > CLOCK_SECONDS:
            newest_us: Any = self.client(config).get(clock_key(config.project))
            self._now = time.monotonic(), to_datetime(int(newest_us or 0))
        return self._now[1]

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[WrittenRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows in the order of their timestamps.

        Raises:
            NextbuyError: Redis is away or full; every row that it took is whole.
        """
        if config.online_store.redis_type == RedisType.redis_cluster:
            super().online_write_batch(config, table, data, progress)
            return
        layout = redis_layout(config, table)
        for rows in rows_from_protos(config, layout, data):
            write(self.client(config), config, layout, [rows], progress or (lambda rows: None))
        self._now = None

    async def online_write_batch_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[WrittenRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """As `online_write_batch`, in a thread."""
        await asyncio.to_thread(self.online_write_batch, config, table, data, progress)

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Remove a view's values from both layouts: of all its versions, and of former schemas."""
        client: Any = self.client(config)
        name = redis_layout(config, table).name
        with_versions = config.registry.enable_online_feature_view_versioning
        versions = re.compile(re.escape(table.name) + (r"(_v\d+)?" if with_versions else ""))

        def is_its(view: bytes) -> bool:
            return view.decode() == name or versions.fullmatch(view.decode()) is not None

        for keys in batched(project_keys(client, table.join_keys, config.project)):
            with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hkeys(key)
                fields_of = pipe.execute()
            with client.pipeline(transaction=False) as pipe:
                for key, fields in zip(keys, fields_of, strict=True):
                    views = [f[len(TIMESTAMP_OF) :] for f in fields if f.startswith(TIMESTAMP_OF)]
                    its = [view.decode() for view in views if is_its(view)]
                    if its and len(its) == len(views):
                        pipe.delete(key)
                    elif its:
                        pipe.hdel(key, *_fields_of(its, table))
                pipe.execute()
        client.hdel(TABLES, name)
        client.hdel(loaded_key(config.project), name)
        recorded = client.hgetall(packed_key(config.project))
        prefixes = [prefix for prefix, view in recorded.items() if is_its(view)]
        if (packed := redis_layout(config, table).packed) is not None:
            prefixes.append(packed.prefix)
        for prefix in dict.fromkeys(prefixes):
            remove_prefix(client, config.project, prefix)

    def delete_entity_values(self, config: RepoConfig, join_keys: list[str]) -> None:
        """Remove the hashes of this project's entities with these join keys.

        Stock Feast looks at the end of a key alone, and so for `shop` removes `webshop` too.
        """
        client: Any = self.client(config)
        for keys in batched(project_keys(client, join_keys, config.project)):
            with client.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.delete(key)
                pipe.execute()

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Any) -> None:
        """Remove all that the project has in Redis."""
        for table in tables:
            self.delete_table(config, table)
        super().teardown(config, tables, entities)
        client: Any = self.client(config)
        for prefix in client.hgetall(packed_key(config.project)):
            remove_prefix(client, config.project, prefix)
        for key in (packed_key, loaded_key, clock_key):
            client.delete(key(config.project))
        self._now = None

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[ReadRow]:
        """As stock; a row older than the view's TTL is `(None, None)`."""
        self._config = config
        with explain_read_errors():
            return super().online_read(config, table, entity_keys, requested_features)

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[ReadRow]:
        """As `online_read`."""
        self._config = config
        with explain_read_errors():
            return await super().online_read_async(config, table, entity_keys, requested_features)

    def _read_features_per_fv(
        self, config: RepoConfig, grouped_refs: Any, join_key_values: Any, *args: Any, **kwargs: Any
    ) -> None:
        self._config = config
        _check_request(grouped_refs, join_key_values)
        with explain_read_errors():
            super()._read_features_per_fv(config, grouped_refs, join_key_values, *args, **kwargs)

    async def _read_features_per_fv_async(
        self, config: RepoConfig, grouped_refs: Any, join_key_values: Any, *args: Any, **kwargs: Any
    ) -> None:
        self._config = config
        _check_request(grouped_refs, join_key_values)
        with explain_read_errors():
            await super()._read_features_per_fv_async(
                config, grouped_refs, join_key_values, *args, **kwargs
            )

    def _generate_hset_keys_for_features(
        self,
        feature_view: FeatureView,
        requested_features: list[str] | None = None,
        fv_name_override: str | None = None,
    ) -> tuple[list[str], list[str | bytes]]:
        # `_convert_redis_values_to_protobuf` gets the view's name alone: keep its TTL by that name.
        self._ttls[fv_name_override or feature_view.name] = getattr(feature_view, "ttl", None)
        names, keys = super()._generate_hset_keys_for_features(
            feature_view, requested_features, fv_name_override
        )
        return names, keys

    def _read_hash_fields(
        self, config: RepoConfig, commands: list[tuple[bytes, list[str | bytes]]]
    ) -> list[list[ByteString | None]]:
        online = config.online_store
        if online.redis_type == RedisType.redis_cluster or online.client == RedisClient.glide:
            return super()._read_hash_fields(config, commands)
        packed = [command(b"HMGET", key, *fields) for key, fields in commands]
        return self.connections(config).execute(b"".join(packed), len(packed))

    def _convert_redis_values_to_protobuf(
        self,
        redis_values: Sequence[Sequence[ByteString | None]],
        feature_view: str,
        requested_features: list[str],
    ) -> list[ReadRow]:
        names = [name for name in requested_features if name != f"_ts:{feature_view}"]
        oldest = None
        if (ttl := self._ttls.get(feature_view)) and self._config is not None:
            oldest = self.now(self._config) - ttl
        return [_row(values, names, oldest) for values in redis_values]


def _fields_of(names: Iterable[str], table: FeatureView) -> Iterator[bytes]:
    """The fields of a hash that hold a view under these names."""
    for name in names:
        yield from (hash_field(name, feature.name) for feature in table.features)
        yield TIMESTAMP_OF + name.encode()


def _check_request(
    views: Sequence[tuple[Any, Sequence[str]]], keys: Mapping[str, Sequence[Value]]
) -> None:
    """Refuse what Feast would answer with a TypeError, or with another entity's values.

    Raises:
        NextbuyError: a join key is null, or the key that a view is mapped to is not given.
    """
    for view, _ in views:
        for key in view.join_keys:
            name = view.projection.join_key_map.get(key, key)
            if name != key and name not in keys:  # Feast would look up `key` in its place
                raise NextbuyError(
                    f"The request lacks the join key {name!r}, which the view "
                    f"{view.projection.name_to_use()!r} is read by in place of {key!r}."
                )
            for row, value in enumerate(keys.get(name, ())):
                if value.WhichOneof("val") is None:
                    raise NextbuyError(
                        f"Row {row} of the request has no {name!r}. Leave out rows without a key; "
                        "nextbuy.stores.online.reader.OnlineReader answers them with no values."
                    )


def _row(values: Sequence[ByteString | None], names: list[str], oldest: datetime | None) -> ReadRow:
    """One reply: the features in the order of their names, the timestamp last."""
    if values[-1] is None:
        return None, {name: Value() for name in names}
    timestamp = Timestamp.FromString(values[-1]).ToDatetime(UTC)
    if oldest is not None and timestamp < oldest:
        return None, None
    return timestamp, {
        name: Value.FromString(value) if value else Value()
        for name, value in zip(names, values, strict=False)
    }
