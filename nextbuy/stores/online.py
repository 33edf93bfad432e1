"""Feast's Redis online store, on the Redis that Nextbuy's settings name.

The layout in Redis is stock Feast's: what one writes the other reads.
"""

from typing import Any

import redis
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from redis import asyncio as redis_asyncio

from nextbuy.redis_server import hold
from nextbuy.settings import Settings


class NextbuyOnlineStoreConfig(RedisOnlineStoreConfig):
    """The `online_store` section of feature_store.yaml."""

    type: str = "nextbuy.stores.online.NextbuyOnlineStore"  # type: ignore[assignment]
    connection_string: str | None = None  # type: ignore[assignment]
    """A Redis in Feast's notation (`host:6379,db=0`). Unset: `REDIS_URL`, else the embedded one."""


class NextbuyOnlineStore(RedisOnlineStore):
    """Feast's Redis store that starts the embedded server where no Redis is configured."""

    def _get_client(self, online_store_config: RedisOnlineStoreConfig) -> redis.Redis:
        if self._client is None and online_store_config.connection_string is None:
            self._client = redis.Redis.from_url(hold(Settings()))
        client: redis.Redis = super()._get_client(online_store_config)
        return client

    async def _get_client_async(self, online_store_config: RedisOnlineStoreConfig) -> Any:
        if self._client_async is None and online_store_config.connection_string is None:
            self._client_async = redis_asyncio.Redis.from_url(hold(Settings()))
        return await super()._get_client_async(online_store_config)
