"""Rows of a feature view, encoded for both layouts, from Arrow or from Feast's messages."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from feast.feature_view import DUMMY_ENTITY_ID
from feast.infra.online_stores.helpers import _redis_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.value_type import ValueType
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError
from nextbuy.stores.online import encoding
from nextbuy.stores.online.layout import TEXT, RedisLayout
from nextbuy.times import to_us, utc


@dataclass(frozen=True)
class EncodedRows:
    """Encoded rows of one view."""

    keys: pa.BinaryArray
    """Of Feast's hashes."""
    features: tuple[str, ...]
    values: tuple[pa.BinaryArray, ...]
    """Per feature, one serialized `Value` per row."""
    times: NDArray[np.int64]
    """Event timestamps, microseconds since 1970."""
    packed_keys: pa.BinaryArray | None = None
    packed: pa.BinaryArray | None = None

    def take(self, chosen: NDArray[np.bool_]) -> "EncodedRows":
        """The rows where `chosen`, of shape (rows,), is true."""
        if chosen.all():
            return self
        mask = pa.array(chosen)
        return self._each(lambda column: column.filter(mask), self.times[chosen])

    def slice(self, start: int, length: int) -> "EncodedRows":
        """Consecutive rows, not copied."""
        times = self.times[start : start + length]
        return self._each(lambda column: column.slice(start, length), times)

    def newest(self) -> "EncodedRows":
        """Of each key the row with the latest timestamp, the last of those that tie."""
        codes = self.keys.dictionary_encode().indices.to_numpy()
        keys = int(codes.max(initial=-1)) + 1
        if keys == len(codes):
            return self
        order = np.argsort(self.times, kind="stable")
        last = np.empty(keys, np.intp)
        last[codes[order]] = order  # of several to one place NumPy leaves the last
        chosen = np.zeros(len(codes), np.bool_)
        chosen[last] = True
        return self.take(chosen)

    def _each(
        self, change: Callable[[pa.BinaryArray], pa.BinaryArray], times: NDArray[np.int64]
    ) -> "EncodedRows":
        return EncodedRows(
            change(self.keys),
            self.features,
            tuple(map(change, self.values)),
            times,
            None if self.packed_keys is None else change(self.packed_keys),
            None if self.packed is None else change(self.packed),
        )


def rows_from_arrow(
    config: RepoConfig, layout: RedisLayout, batch: pa.RecordBatch | pa.Table, timestamp: str
) -> EncodedRows:
    """Encode the columns of a batch; rows without a key or a time are left out.

    A null key cannot be requested, and a row without a time cannot be ordered.

    Raises:
        NextbuyError: a column is missing or does not hold what the view declares.
    """
    table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
    names, kinds = [name for name, _ in layout.join_keys], [kind for _, kind in layout.join_keys]
    if DUMMY_ENTITY_ID in names:
        table = table.append_column(DUMMY_ENTITY_ID, pa.array([""] * table.num_rows))
    required = [*names, *(field.name for field in layout.features), timestamp]
    missing = [name for name in required if name not in table.column_names]
    if missing:
        raise NextbuyError(
            f"The rows for feature view {layout.name!r} lack {', '.join(map(repr, missing))}."
        )
    table = table.select(dict.fromkeys(required))
    complete = np.ones(table.num_rows, np.bool_)
    for name in (*names, timestamp):
        complete &= np.asarray(table[name].is_valid())
    table = table.filter(pa.array(complete))
    columns = {name: _one_chunk(table[name]) for name in table.column_names}
    keys = [columns[name] for name in names]
    features = [columns[field.name] for field in layout.features]
    times = columns[timestamp].cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_numpy()
    values = tuple(
        encoding.values(column, field.dtype, field.name)
        for column, field in zip(features, layout.features, strict=True)
    )
    if packed := layout.packed:
        for i in packed.long:
            if packed.kinds[i] not in TEXT:
                features[i] = values[i]
    return EncodedRows(
        keys=encoding.entity_keys(keys, names, kinds, config.project),
        features=tuple(field.name for field in layout.features),
        values=values,
        times=times,
        packed_keys=encoding.packed_keys(packed, keys, kinds) if packed else None,
        packed=encoding.packed_rows(packed, features, times) if packed else None,
    )


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def rows_from_protos(
    config: RepoConfig,
    layout: RedisLayout,
    data: Sequence[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
) -> list[EncodedRows]:
    """Encode rows as Feast hands them over, oldest first; one `EncodedRows` per set of features.

    Raises:
        NextbuyError: rows without all features of the view cannot go to the packed layout.
    """
    groups: dict[tuple[str, ...], list[Any]] = {}
    for row in data:
        groups.setdefault(tuple(row[1]), []).append(row)
    return [_rows_of_group(config, layout, names, rows) for names, rows in groups.items()]


def _rows_of_group(
    config: RepoConfig, layout: RedisLayout, names: tuple[str, ...], data: list[Any]
) -> EncodedRows:
    data = sorted(data, key=lambda row: (utc(row[2]), utc(row[3] or row[2])))
    times = np.array([to_us(row[2]) for row in data], np.int64)
    keys = [
        _redis_key(config.project, row[0], config.entity_key_serialization_version) for row in data
    ]
    values = tuple(
        pa.array([row[1][name].SerializeToString() for row in data], pa.binary()) for name in names
    )
    packed_keys = packed_rows = None
    if packed := layout.packed:
        if set(names) != set(packed.names):
            raise NextbuyError(
                f"A push to {layout.name!r} must bring all of its features "
                f"({', '.join(packed.names)}): the packed layout holds whole rows."
            )
        at = {name: i for i, name in enumerate(data[0][0].join_keys)}
        packed_keys = encoding.packed_keys(
            packed,
            [
                _arrow([row[0].entity_values[at[name]] for row in data], kind)
                for name, kind in layout.join_keys
            ],
            [kind for _, kind in layout.join_keys],
        )
        features = zip(packed.names, packed.kinds, strict=True)
        columns = [_arrow([row[1][name] for row in data], kind) for name, kind in features]
        packed_rows = encoding.packed_rows(packed, columns, times)
    return EncodedRows(pa.array(keys, pa.binary()), names, values, times, packed_keys, packed_rows)


def _arrow(protos: list[Value], kind: ValueType) -> pa.Array:
    if kind not in encoding.SCALARS:
        return pa.array([proto.SerializeToString() for proto in protos], pa.binary())
    fields = [proto.WhichOneof("val") for proto in protos]
    values = [
        getattr(proto, field) if field else None
        for proto, field in zip(protos, fields, strict=True)
    ]
    return pa.array(values, encoding.SCALARS[kind])
