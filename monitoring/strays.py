"""Rows in Redis that should not be there: of no table that was loaded, and of no live event."""

from dataclasses import replace
from typing import Any

import redis
from feast import FeatureStore

from nextbuy.live.engine import LiveEngine
from nextbuy.live.event_store import LiveStore
from nextbuy.live.write_history import loaded_versions
from nextbuy.settings import Settings
from nextbuy.stores.compute_engine import stray_rows
from nextbuy.stores.loaded_tables import loaded_table
from nextbuy.stores.online.keys import keys_beginning
from nextbuy.stores.online.layout import redis_layout
from nextbuy.stores.online.redis_server import running_redis
from nextbuy.stores.online.removal import former_prefixes
from nextbuy.versioned_table import manifest


def stray_keys(settings: Settings) -> dict[str, int]:
    """View -> how many of its keys in Redis should not be there; only views that have some.

    Each key is compared with the table that was loaded last and with what live events wrote. Rows
    of a former schema, which no reader finds, count too. A view that is being loaded, or was never
    loaded by `materialize`, is left out.

    Raises:
        NextbuyError: Redis is out of reach.
    """
    feast = FeatureStore(repo_path=str(settings.feature_repo))
    provider: Any = feast.provider
    engine = provider.batch_engine
    strays_of: dict[str, int] = {}
    if not isinstance(engine, LiveEngine):
        return strays_of
    with running_redis(settings) as url, redis.Redis.from_url(url) as client:
        for view in feast.list_feature_views():
            layout = redis_layout(feast.config, view)
            source = view.batch_source
            table = source and loaded_table(source, layout, source.timestamp_field)
            with LiveStore(settings) as store:
                loads = loaded_versions(store, view.name)
            if not table or not loads or loads[-1].ended_us is None:
                continue
            folder = loads[-1].folder
            if (loaded := manifest(folder)) is None:
                continue
            table = replace(table, folder=folder, manifest=loaded)
            kept = engine.rows_kept(view.name, list(table.keys))
            strays = stray_rows(client, feast.config, layout, table, kept).num_rows
            for prefix in former_prefixes(client, feast.config, layout):
                strays += sum(1 for _ in keys_beginning(client, prefix))
            if strays:
                strays_of[view.name] = strays
    return strays_of
