"""Features in Redis, behind Feast's online store interface.

`type: nextbuy.stores.online.NextbuyOnlineStore` in a feature_store.yaml. The store is imported
when that name is read: Feast takes seconds to import, and the modules beside it do without.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name not in ("NextbuyOnlineStore", "NextbuyOnlineStoreConfig"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nextbuy.stores.online import store

    return getattr(store, name)
