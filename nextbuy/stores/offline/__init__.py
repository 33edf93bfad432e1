"""Point-in-time retrieval on DuckDB, behind Feast's offline store interface.

`type: nextbuy.stores.offline.NextbuyOfflineStore` in a feature_store.yaml. The store is imported
when that name is read: Feast takes seconds to import, and the modules beside it do without.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name not in ("NextbuyOfflineStore", "NextbuyOfflineStoreConfig"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nextbuy.stores.offline import store

    return getattr(store, name)
