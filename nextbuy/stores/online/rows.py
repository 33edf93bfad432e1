"""Rows of a feature view as the bytes that Redis holds, from Arrow or from Feast's messages."""

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
from feast.utils import make_tzaware
from feast.value_type import ValueType
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError
from nextbuy.stores.online import encoding
from nextbuy.stores.online.layout import Layout
from nextbuy.stores.online.packed import TEXT
from nextbuy.times import EPOCH, MICROSECOND


@dataclass(frozen=True)
class Rows:
    """Encoded rows of one view."""

    keys: pa.BinaryArray
    features: tuple[str, ...]
    values: tuple[pa.BinaryArray, ...]
    """Per feature, one serialized `Value` per row."""
    times: NDArray[np.int64]
    """Event timestamps, microseconds since 1970."""
    packed_keys: pa.BinaryArray | None = None
    packed: pa.BinaryArray | None = None

    def take(self, chosen: NDArray[np.bool_]) -> "Rows":
        """The chosen rows."""
        if chosen.all():
            return self
        mask = pa.array(chosen)
        return self._each(lambda column: column.filter(mask), self.times[chosen])

    def slice(self, start: int, length: int) -> "Rows":
        """Consecutive rows, uncopied."""
        times = self.times[start : start + length]
        return self._each(lambda column: column.slice(start, length), times)

    def newest(self) -> "Rows":
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
        self, of: Callable[[pa.BinaryArray], pa.BinaryArray], times: NDArray[np.int64]
    ) -> "Rows":
        return Rows(
            of(self.keys),
            self.features,
            tuple(map(of, self.values)),
            times,
            None if self.packed_keys is None else of(self.packed_keys),
            None if self.packed is None else of(self.packed),
        )


def rows_from_arrow(
    config: RepoConfig, into: Layout, batch: pa.RecordBatch | pa.Table, timestamp: str
) -> Rows:
    """Encode the columns of a batch; rows without a key or a time are left out.

    Nobody can ask for a null key, and a row without a time cannot be ordered.

    Raises:
        NextbuyError: a column is missing or does not hold what the view declares.
    """
    table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
    if DUMMY_ENTITY_ID in dict(into.join_keys):
        table = table.append_column(DUMMY_ENTITY_ID, pa.array([""] * table.num_rows))
    wanted = [*(name for name, _ in into.join_keys), *(f.name for f in into.features), timestamp]
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise NextbuyError(
            f"The rows for feature view {into.name!r} lack {', '.join(map(repr, missing))}."
        )
    table = table.select(dict.fromkeys(wanted))
    table = table.filter(_complete(table, [name for name, _ in into.join_keys] + [timestamp]))
    columns = {name: _one(table[name]) for name in table.column_names}
    kinds = [kind for _, kind in into.join_keys]
    keys = [columns[name] for name, _ in into.join_keys]
    features = [columns[field.name] for field in into.features]
    times = columns[timestamp].cast(pa.timestamp("us"), safe=False).cast(pa.int64()).to_numpy()
    values = tuple(
        encoding.values(column, field.dtype, field.name)
        for column, field in zip(features, into.features, strict=True)
    )
    if into.packing:
        for i in into.packing.long:
            if into.packing.kinds[i] not in TEXT:
                features[i] = values[i]
    return Rows(
        keys=encoding.entity_keys(
            keys, [name for name, _ in into.join_keys], kinds, config.project
        ),
        features=tuple(field.name for field in into.features),
        values=values,
        times=times,
        packed_keys=into.packing.keys(keys, kinds) if into.packing else None,
        packed=into.packing.rows(features, times) if into.packing else None,
    )


def _complete(table: pa.Table, names: Sequence[str]) -> pa.Array:
    whole = np.ones(table.num_rows, np.bool_)
    for name in names:
        whole &= np.asarray(table[name].is_valid())
    return pa.array(whole)


def _one(column: pa.ChunkedArray) -> pa.Array:
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def rows_from_protos(
    config: RepoConfig,
    into: Layout,
    data: Sequence[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
) -> list[Rows]:
    """Encode rows as Feast hands them over, oldest first; one `Rows` per set of features.

    Raises:
        NextbuyError: rows without all features of the view cannot go to the packed layout.
    """
    groups: dict[tuple[str, ...], list[Any]] = {}
    for row in data:
        groups.setdefault(tuple(row[1]), []).append(row)
    return [_rows_of_group(config, into, names, rows) for names, rows in groups.items()]


def _rows_of_group(
    config: RepoConfig, into: Layout, names: tuple[str, ...], data: list[Any]
) -> Rows:
    def order(row: Any) -> tuple[datetime, datetime]:
        return make_tzaware(row[2]), make_tzaware(row[3] or row[2])

    data = sorted(data, key=order)
    times = np.array([(make_tzaware(row[2]) - EPOCH) // MICROSECOND for row in data], np.int64)
    keys = [
        _redis_key(config.project, row[0], config.entity_key_serialization_version) for row in data
    ]
    values = tuple(
        pa.array([row[1][name].SerializeToString() for row in data], pa.binary()) for name in names
    )
    packed_keys = packed = None
    if into.packing:
        if set(names) != set(into.packing.names):
            raise NextbuyError(
                f"A push to {into.name!r} must bring all of its features "
                f"({', '.join(into.packing.names)}): the packed layout holds whole rows."
            )
        at = {name: i for i, name in enumerate(data[0][0].join_keys)}
        columns = [
            _plain([row[0].entity_values[at[name]] for row in data], kind)
            for name, kind in into.join_keys
        ]
        packed_keys = into.packing.keys(columns, [kind for _, kind in into.join_keys])
        packed = into.packing.rows(
            [
                _plain([row[1][name] for row in data], kind)
                for name, kind in zip(into.packing.names, into.packing.kinds, strict=True)
            ],
            times,
        )
    return Rows(pa.array(keys, pa.binary()), names, values, times, packed_keys, packed)


def _plain(protos: list[Value], kind: ValueType) -> pa.Array:
    if kind not in encoding.SCALARS:
        return pa.array([proto.SerializeToString() for proto in protos], pa.binary())
    fields = [proto.WhichOneof("val") for proto in protos]
    found = [
        getattr(proto, field) if field else None
        for proto, field in zip(protos, fields, strict=True)
    ]
    return pa.array(found, encoding.SCALARS[kind])
