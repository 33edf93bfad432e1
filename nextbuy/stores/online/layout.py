"""Where the rows of a feature view lie in Redis."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import _mmh3, compute_versioned_name
from feast.repo_config import RepoConfig
from feast.value_type import ValueType

from nextbuy.stores.online.packed import Packing, packing


@dataclass(frozen=True)
class Layout:
    """Where the rows of one feature view go in Redis."""

    name: str
    """The view's name, with its version where versions are on."""
    join_keys: tuple[tuple[str, ValueType], ...]
    """In the order of their names."""
    features: tuple[Any, ...]
    """Feast's fields."""
    ttl: timedelta | None
    packing: Packing | None

    @property
    def stamp_field(self) -> bytes:
        """The hash field of the event timestamp."""
        return f"_ts:{self.name}".encode()

    def field(self, feature: str) -> bytes:
        """The hash field of a feature."""
        field: bytes = _mmh3(f"{self.name}:{feature}")
        return field


def layout(config: RepoConfig, view: Any) -> Layout:
    """The layout of a feature view under the online store's configuration."""
    name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    join_keys = sorted(
        (field.name, field.dtype.to_value_type()) for field in getattr(view, "entity_columns", [])
    )
    packs = None
    if config.online_store.packed and isinstance(view, FeatureView):
        packs = packing(
            config.project,
            name,
            [key for key, _ in join_keys],
            [(field.name, field.dtype.to_value_type()) for field in view.features],
        )
    return Layout(
        name, tuple(join_keys), tuple(view.features), getattr(view, "ttl", None) or None, packs
    )


def clock_key(project: str) -> bytes:
    """The Redis key of the newest event timestamp that was written for a project."""
    return b"nextbuy:clock:" + project.encode()
