"""Feature rows into Redis: stock Feast's hashes, and the packed layout where configured."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import redis
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.online_stores.helpers import _mmh3, _redis_key, compute_versioned_name
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.utils import make_tzaware
from feast.value_type import ValueType
from numpy.typing import NDArray

from nextbuy.errors import NextbuyError
from nextbuy.stores import encode
from nextbuy.stores.packed import TEXT, Packing, packing
from nextbuy.stores.script import CLOCK, Expiry, write_script
from nextbuy.stores.wire import Wire, bulk, command, first_error, header, wire

ROWS_PER_CALL = 200  # one run of the script: well below a millisecond for which others wait
CALLS_IN_FLIGHT = 8
MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime.fromtimestamp(0, UTC)


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
        mask = pa.array(chosen)

        def kept(array: pa.BinaryArray | None) -> pa.BinaryArray | None:
            return None if array is None else array.filter(mask)

        values = tuple(column.filter(mask) for column in self.values)
        return Rows(
            self.keys.filter(mask),
            self.features,
            values,
            self.times[chosen],
            kept(self.packed_keys),
            kept(self.packed),
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
        encode.values(column, field.dtype, field.name)
        for column, field in zip(features, into.features, strict=True)
    )
    if into.packing:
        for i in into.packing.long:
            if into.packing.kinds[i] not in TEXT:
                features[i] = values[i]
    return Rows(
        keys=encode.entity_keys(keys, [name for name, _ in into.join_keys], kinds, config.project),
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


def write(
    client: redis.Redis,
    config: RepoConfig,
    into: Layout,
    rows: Rows,
    progress: Callable[[int], Any] | None = None,
) -> None:
    """Write rows, each whole or not at all, none over a newer one.

    `progress` is called with numbers of rows that Redis has taken in (or knows newer).

    Raises:
        NextbuyError: Redis is away, was restarted, or is full. What was written is whole; writing
            the same rows again completes it.
    """
    online = config.online_store
    dated = into.ttl is not None and online.clock == "wall" and not online.key_ttl_seconds
    total, done = len(rows.times), 0
    if dated and into.ttl:
        ends = rows.times + into.ttl // MICROSECOND
        rows = rows.take(ends > time.time_ns() // 1000)  # Redis would drop the others at once
    expiry = _expiry(online, into)
    script = write_script(
        into.stamp_field,
        [into.field(name) for name in rows.features],
        rows.packed is not None,
        expiry,
    )
    try:
        with wire(client) as line:
            for taken in _send(line, script, rows, expiry, into):
                done += taken
                if progress:
                    progress(taken)
            if len(rows.times):
                clock = command(
                    b"EVAL", CLOCK, b"1", clock_key(config.project), b"%d" % rows.times.max()
                )
                line.send(clock)
                line.read(1)
        if progress and done < total:
            progress(total - done)
    except (redis.RedisError, OSError) as error:
        raise NextbuyError(_trouble(error, into.name, done, total)) from error


def _expiry(online: Any, into: Layout) -> Expiry:
    if online.key_ttl_seconds:
        return int(online.key_ttl_seconds)
    if online.clock == "data":
        return "never"
    return "stamp" if into.ttl else "persist"


def clock_key(project: str) -> bytes:
    """The Redis key of the newest event timestamp that was written for a project."""
    return b"nextbuy:clock:" + project.encode()


def _send(line: Wire, script: bytes, rows: Rows, expiry: Expiry, into: Layout) -> Any:
    """Send the rows call by call; give the number of rows of each call that was answered."""
    arguments = [*rows.values, encode.stamps(rows.times)]
    keys = [encode.framed([rows.keys])]
    if expiry == "stamp" and into.ttl:
        ends = (rows.times + into.ttl // MICROSECOND) // 1000
        arguments.append(pa.array(ends).cast(pa.string()).cast(pa.binary()))
    if rows.packed is not None:
        arguments.append(rows.packed)
        keys.append(encode.framed([rows.packed_keys]))
    values = encode.framed(arguments)
    line.send(command(b"SCRIPT", b"LOAD", script))
    (digest,) = line.read(1)
    if isinstance(digest, redis.ResponseError):
        raise digest
    in_flight: list[int] = []
    for start in range(0, len(rows.times), ROWS_PER_CALL):
        stop = min(start + ROWS_PER_CALL, len(rows.times))
        count = stop - start
        opening = b"".join(
            [
                header(3 + count * (len(keys) + len(arguments))),
                bulk(b"EVALSHA"),
                bulk(digest),
                bulk(b"%d" % (count * len(keys))),
            ]
        )
        line.send(opening, *(encode.span(k, start, stop) for k in keys))
        line.send(encode.span(values, start, stop))
        in_flight.append(count)
        if len(in_flight) == CALLS_IN_FLIGHT:
            yield _answered(line, in_flight)
    while in_flight:
        yield _answered(line, in_flight)


def _answered(line: Wire, in_flight: list[int]) -> int:
    error = first_error(line.read(1))
    if error is not None:
        raise error
    return in_flight.pop(0)


def _trouble(error: Exception, view: str, done: int, total: int) -> str:
    reason = str(error)
    if "OOM" in reason:
        reason = "it is full (maxmemory). Give it more memory or fewer rows"
    elif "MISCONF" in reason:
        reason = "it cannot save to its disk. Free space there"
    elif "WRONGTYPE" in reason:
        reason = (
            "a key of these rows holds something that is no hash of Feast's. Remove what another "
            "program put into this database, or name another one (connection_string, REDIS_URL)"
        )
    return (
        f"Redis took {done} of {total} rows of feature view {view!r}, then: {reason}. Every row in "
        "it is whole; run the same command again to complete the rest."
    )


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
    if kind not in encode.SCALARS:
        return pa.array([proto.SerializeToString() for proto in protos], pa.binary())
    fields = [proto.WhichOneof("val") for proto in protos]
    found = [
        getattr(proto, field) if field else None
        for proto, field in zip(protos, fields, strict=True)
    ]
    return pa.array(found, encode.SCALARS[kind])
