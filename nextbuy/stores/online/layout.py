"""Where the rows of a feature view lie in Redis: Feast's hashes and the packed layout beside them.

Feast's layout is one hash per entity and a field per value. The packed layout is one Redis string
per (feature view, entity):

    8 bytes  event timestamp, microseconds since 1970, little endian
    1 byte   per feature: 1 where it is missing
    n bytes  the numbers, those of one type side by side (8 bytes for doubles and integers, 4 for
             floats and int32, 1 for booleans); then of each other feature its length (4 bytes)
    rest     what has a length, one after the other: text and bytes as they are, lists, times and
             any other type of Feast as a serialized `Value`

One MGET reads all rows of a request, and the numbers of one type are a NumPy matrix as they come.
The key holds a checksum of the view's schema: rows of another schema, or of another version of
this layout, are not found, and never misread.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache, cached_property
from typing import Any

import numpy as np
from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import _mmh3, compute_versioned_name
from feast.repo_config import RepoConfig
from feast.value_type import ValueType

PACKED_VERSION = 2
"""Version of the packed layout; part of the checksum."""
SLOTS = {
    ValueType.DOUBLE: "<f8",
    ValueType.INT64: "<i8",
    ValueType.FLOAT: "<f4",
    ValueType.INT32: "<i4",
    ValueType.BOOL: "?",
}
TEXT = (ValueType.STRING, ValueType.BYTES)
TIMESTAMP_OF = b"_ts:"
"""What the name of a hash's field with a view's timestamp begins with."""


@dataclass(frozen=True)
class PackedLayout:
    """How the rows of one feature view are packed."""

    prefix: bytes
    """What each key begins with."""
    names: tuple[str, ...]
    kinds: tuple[ValueType, ...]
    blocks: tuple[tuple[ValueType, tuple[int, ...]], ...]
    """The types of numbers and the positions of their features, in the order of a row."""
    long: tuple[int, ...]
    """Positions of the features of varying length."""
    dtype: np.dtype[Any]
    """The fixed part of a row: `time`, `missing`, a block by the name of each type, `lengths`."""


@dataclass(frozen=True)
class RedisLayout:
    """Where the rows of one feature view go in Redis."""

    name: str
    """The view's name, with its version where versions are on."""
    join_keys: tuple[tuple[str, ValueType], ...]
    """In the order of their names."""
    features: tuple[Any, ...]
    """Feast's fields."""
    ttl: timedelta | None
    packed: PackedLayout | None
    """None: only the hashes are written."""

    @cached_property
    def timestamp_field(self) -> bytes:
        """The hash field of the event timestamp."""
        return TIMESTAMP_OF + self.name.encode()


@cache
def hash_field(view: str, feature: str) -> bytes:
    """The hash field of a view's feature."""
    field: bytes = _mmh3(f"{view}:{feature}")
    return field


def redis_layout(config: RepoConfig, view: Any) -> RedisLayout:
    """The layout of a feature view under the online store's configuration."""
    name = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
    join_keys = sorted(
        (field.name, field.dtype.to_value_type()) for field in getattr(view, "entity_columns", [])
    )
    packed = None
    if config.online_store.packed and isinstance(view, FeatureView):
        packed = packed_layout(
            config.project,
            name,
            [key for key, _ in join_keys],
            [(field.name, field.dtype.to_value_type()) for field in view.features],
        )
    return RedisLayout(
        name, tuple(join_keys), tuple(view.features), getattr(view, "ttl", None) or None, packed
    )


def packed_layout(
    project: str, view: str, join_keys: Sequence[str], features: Sequence[tuple[str, ValueType]]
) -> PackedLayout:
    """The packed layout of a feature view."""
    schema = (PACKED_VERSION, project, view, sorted(join_keys), [(n, k.name) for n, k in features])
    digest = hashlib.md5(repr(schema).encode(), usedforsecurity=False).digest()
    kinds = tuple(kind for _, kind in features)
    positions = {kind: tuple(i for i, k in enumerate(kinds) if k == kind) for kind in SLOTS}
    blocks = tuple((kind, columns) for kind, columns in positions.items() if columns)
    long = tuple(i for i, kind in enumerate(kinds) if kind not in SLOTS)
    dtype = np.dtype(
        [("time", "<i8"), ("missing", "?", (len(features),))]
        + [(kind.name, SLOTS[kind], (len(columns),)) for kind, columns in blocks]
        + [("lengths", "<u4", (len(long),))]
    )
    names = tuple(name for name, _ in features)
    return PackedLayout(b"nb" + digest[:6], names, kinds, blocks, long, dtype)


@cache
def clock_key(project: str) -> bytes:
    """The Redis key of the newest event timestamp that was written for a project."""
    return b"nextbuy:clock:" + project.encode()


@cache
def packed_key(project: str) -> bytes:
    """The Redis key of a hash: what packed keys of a project begin with -> their view's name.

    A prefix alone does not say whose it is, and rows of a former schema have one of their own.
    """
    return b"nextbuy:packed:" + project.encode()


@cache
def loaded_key(project: str) -> bytes:
    """The Redis key of a hash: view -> the published tables whose rows it may hold."""
    return b"nextbuy:loaded:" + project.encode()


TABLES = "nextbuy:tables"
"""The Redis key of a hash: view -> schema and days of the table that `nextbuy materialize` loaded
as a whole, as JSON."""
