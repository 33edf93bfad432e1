"""Was every vector that the service used the one training would have computed?

The prediction log says what the model saw. The record of what was written to Redis
(`nextbuy.live.write_history`) is a history with two times: of what a row tells, and from when on
it was there. The offline store joins it to the logged predictions point-in-time, with the
created-timestamp cutoff, as it does for a training set; then value is compared with value.

A read and a write that overlap have no order: a value is right if it was in effect at some moment
between the start of the read and the prediction. For that, a prediction during whose read rows
were on their way to Redis is also retrieved as of just before each of them.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore, FileSource
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from nextbuy.atomic import write_text
from nextbuy.connection import duckdb_connection
from nextbuy.contract import ModelContract
from nextbuy.errors import NextbuyError
from nextbuy.live.event_store import LiveStore
from nextbuy.live.write_history import live_rows, loaded_versions, shrunk_at
from nextbuy.prediction_log import prediction_parts
from nextbuy.settings import Settings
from nextbuy.sql import read_parquet
from nextbuy.stores.offline.store import NextbuyOfflineStore
from nextbuy.times import END_OF_TIME_US, NOT_SEEN_US

WORST = 20
MOMENT = pa.timestamp("us", "UTC")
STAMPS = ("event_timestamp", "created_timestamp")


class Worst(BaseModel):
    """A prediction whose vector differs from the offline store's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    request_id: str
    user_id: str
    item_id: str
    predicted_at: datetime
    differing: dict[str, tuple[float | None, float | None]]
    """Feature -> (value in the logged vector, value of the offline store)."""


class ParityReport(BaseModel):
    """What was compared, and what differed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int
    values: int
    mismatches: int
    features: dict[str, int]
    """Feature -> values that differ; only those with any."""
    worst: list[Worst]
    degraded: int
    """Rows left out because Redis did not answer: they say so themselves."""
    with_context: int
    """Rows left out because the client replaced features."""
    not_comparable: int
    """Rows left out because their model or their read time is not known, or the record of what
    was in Redis then is not kept any more."""

    def __str__(self) -> str:
        lines = [
            f"{self.mismatches:,} of {self.values:,} values differ ({self.rows:,} rows compared)"
        ]
        reasons = {
            "Redis did not answer them": self.degraded,
            "the request replaced features": self.with_context,
            "their model, the time of their read, or what was in Redis then is not on record "
            "(nextbuy materialize begins the record)": self.not_comparable,
        }
        lines += [f"  {count:,} rows left out: {why}" for why, count in reasons.items() if count]
        lines += [f"  {name}: {count:,}" for name, count in self.features.items()]
        for row in self.worst[:3]:
            some = dict(list(row.differing.items())[:3])
            lines.append(f"  {row.user_id} {row.item_id} at {row.predicted_at}: {some}")
        return "\n".join(lines)


def parity(
    settings: Settings, start: datetime | None = None, end: datetime | None = None
) -> ParityReport:
    """Compare the predictions logged between `start` and `end`; writes `reports/parity.json`.

    Raises:
        NextbuyError: nothing was logged, or nothing materialized by `nextbuy materialize`.
    """
    sums = _Sums()
    contracts: dict[str, ModelContract | None] = {}
    with LiveStore(settings) as store, tempfile.TemporaryDirectory(prefix="nextbuy-") as work:
        recorded_us = int(store.get_meta("comparable_us") or 0)
        history = RedisHistory(settings, store, Path(work))
        for logged in prediction_parts(settings, start, end):
            answered = logged.filter(pc.invert(logged["is_shadow"]))  # those answered nobody
            for tag in answered["model"].unique().to_pylist():
                if tag not in contracts:
                    contracts[tag] = _contract(tag)
                rows = answered.filter(pc.equal(answered["model"], tag))
                _add(sums, history, contracts[tag], rows, recorded_us)
    if not sums.rows and not sums.left_out:
        since = f" since {start:%Y-%m-%d %H:%M}" if start else ""
        raise NextbuyError(f"No prediction was logged{since}. Serve some: nextbuy serve")
    report = ParityReport(
        rows=sums.rows,
        values=sums.values,
        mismatches=sums.counts.total(),
        features=dict(sorted(sums.counts.items(), key=lambda pair: (-pair[1], pair[0]))),
        worst=sums.worst,
        **sums.left_out,
    )
    write_text(settings.reports / "parity.json", report.model_dump_json(indent=1))
    return report


class _Sums:
    """Totals over the parts of the log."""

    def __init__(self) -> None:
        self.rows = self.values = 0
        self.counts: Counter[str] = Counter()
        self.worst: list[Worst] = []
        self.left_out: Counter[str] = Counter()


def _add(
    sums: _Sums,
    history: "RedisHistory",
    contract: ModelContract | None,
    rows: pa.Table,
    recorded_us: int,
) -> None:
    """Compare one model's part of the log, without the rows that cannot be compared."""
    degraded, context = rows["is_degraded"], pc.fill_null(rows["has_context"], False)
    read_us = pc.fill_null(rows["read_at"].cast(pa.int64()), -1)
    on_record = pc.greater_equal(read_us, recorded_us if contract else END_OF_TIME_US)
    fit = pc.and_(pc.invert(degraded), pc.invert(context))
    sums.left_out["degraded"] += pc.sum(degraded).as_py() or 0
    sums.left_out["with_context"] += pc.sum(pc.and_(pc.invert(degraded), context)).as_py() or 0
    sums.left_out["not_comparable"] += pc.sum(pc.and_(fit, pc.invert(on_record))).as_py() or 0
    compared = rows.filter(pc.and_(fit, on_record))
    if contract is None or not compared.num_rows:
        return
    sums.rows += compared.num_rows
    sums.values += compared.num_rows * len(contract.features)
    counts, worst = _compare(history, contract, compared)
    sums.counts.update(counts)
    ordered = sorted([*sums.worst, *worst], key=lambda w: -len(w.differing))
    sums.worst = ordered[:WORST]


def _contract(tag: str) -> ModelContract | None:
    """The contract of an exported model; None if it is no longer in the model store."""
    try:
        folder = Path(bentoml.models.get(tag).path)
    except bentoml.exceptions.NotFound:
        return None
    return ModelContract.model_validate(json.loads((folder / "model.json").read_text())["contract"])


class RedisHistory:
    """The rows that were in Redis, view by view, as Feast sources; and when they were written."""

    def __init__(self, settings: Settings, store: LiveStore, work: Path) -> None:
        self._feast = FeatureStore(repo_path=str(settings.feature_repo))
        self._settings, self._store, self._work = settings, store, work
        self._views: dict[tuple[str, int], Any] = {}
        loads = store.sql.execute("SELECT DISTINCT began_us, ended_us FROM materialized")
        batches = store.sql.execute(
            # A batch cut short by a crash was complete with the next one that was.
            "SELECT created_us, coalesce(written_us, (SELECT min(later.written_us) FROM batches "
            "AS later WHERE later.batch > batches.batch), ?) FROM batches",
            [END_OF_TIME_US],
        )
        writes = sorted([*batches, *((began, ended or END_OF_TIME_US) for began, ended in loads)])
        self.began = np.array([began for began, _ in writes], np.int64)
        self.ended = np.array([ended for _, ended in writes], np.int64)
        shrunk = store.sql.execute("SELECT DISTINCT began_us FROM shrunk ORDER BY began_us")
        self._periods = np.array([NOT_SEEN_US, *(us for (us,) in shrunk)], np.int64)
        """When each period begins: at its start a load took rows out of Redis."""

    def moments(
        self, read_us: NDArray[np.int64], predicted_us: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row, moment) pairs of what may have been in effect while each row was read.

        The prediction itself, and just before each write that overlaps the read; row by row.
        """
        last = np.searchsorted(self.began, predicted_us, "right")
        # No write before this one ended after the read began.
        first = np.searchsorted(np.maximum.accumulate(self.ended), read_us, "left")
        of, at = [np.arange(len(read_us))], [predicted_us]
        for row in np.flatnonzero(first < last):
            chosen = slice(first[row], last[row])
            began = np.unique(self.began[chosen][self.ended[chosen] >= read_us[row]])
            of.append(np.full(len(began), row))
            at.append(began - 1)
        order = np.argsort(np.concatenate(of), kind="stable")
        return np.concatenate(of)[order], np.concatenate(at)[order]

    def retrieve(self, contract: ModelContract, entities: pa.Table) -> pa.Table:
        """The contract's features of each row, as of its `event_timestamp`."""
        at = entities["event_timestamp"].cast(pa.int64()).to_numpy()
        period = np.searchsorted(self._periods, at, "right") - 1
        parts, order = [], []
        for number in np.unique(period).tolist():
            rows = np.flatnonzero(period == number)
            parts.append(self._retrieve(contract, entities.take(pa.array(rows)), number))
            order.append(rows)
        if len(parts) < 2:
            return parts[0] if parts else self._retrieve(contract, entities, 0)
        place = np.argsort(np.concatenate(order), kind="stable")
        return pa.concat_tables(parts).take(pa.array(place))

    def _retrieve(self, contract: ModelContract, entities: pa.Table, period: int) -> pa.Table:
        service = self._feast.get_feature_service(contract.feature_service)
        required = set(contract.features)
        refs, views = [], []
        for projection in service.feature_view_projections:
            names = [f.name for f in projection.features]
            names = [name for name in names if f"{projection.name}__{name}" in required]
            if names:
                refs += [f"{projection.name}:{name}" for name in names]
                views.append(self._view(projection.name, period))
        job = NextbuyOfflineStore.get_historical_features(
            config=self._feast.config,
            feature_views=views,
            feature_refs=refs,
            entity_df=entities,
            registry=self._feast.registry,
            project=self._feast.project,
            full_feature_names=True,
            filter_by_created_timestamp=True,
        )
        return job.to_arrow()

    def _view(self, name: str, period: int) -> Any:
        """The feature view over what was in Redis in a period."""
        began = [us for us in shrunk_at(self._store, name) if us <= self._periods[period]]
        since = max(began, default=NOT_SEEN_US)  # what was loaded before left Redis, or came again
        if (name, since) not in self._views:
            view: Any = self._feast.get_feature_view(name)
            keys = [column.name for column in view.entity_columns]
            features = [field.name for field in view.features]
            folder = self._work / f"{name}-{since}"
            folder.mkdir()
            for number, rows in enumerate(self._rows(name, keys, features, since)):
                pq.write_table(rows, folder / f"part-{number:05d}.parquet")
            view.batch_source = FileSource(
                path=str(folder),
                timestamp_field=STAMPS[0],
                created_timestamp_column=STAMPS[1],
            )
            self._views[name, since] = view
        return self._views[name, since]

    def _rows(
        self, view: str, keys: list[str], features: list[str], since: int
    ) -> Iterator[pa.Table]:
        columns = ", ".join([*keys, STAMPS[0], *features])
        loads = loaded_versions(self._store, view)
        if not loads:
            raise NextbuyError(
                f"It is not known when feature view {view!r} was loaded into Redis. Load it with: "
                "nextbuy materialize"
            )
        schema, newest_us = None, NOT_SEEN_US
        with duckdb_connection(self._settings) as connection:
            for load in loads:
                newest_us = max(newest_us, load.newest_us)
                if load.began_us < since:
                    continue
                # What lies beyond its end, and was loaded before, stayed in Redis.
                until = newest_us if load.began_us == since else load.newest_us
                # The latest row of each key, as materialization loads it.
                loaded = connection.sql(
                    f"SELECT {columns}, make_timestamptz({load.began_us}) AS {STAMPS[1]} "
                    f"FROM {read_parquet(load.folder / '*' / '*.parquet')} "
                    f"WHERE epoch_us({STAMPS[0]}) <= {until} QUALIFY row_number() OVER "
                    f"(PARTITION BY {', '.join(keys)} ORDER BY {STAMPS[0]} DESC) = 1"
                ).to_arrow_table()
                schema = loaded.schema
                yield loaded
            written = list(live_rows(self._store, view))
            if written and schema is not None:
                rows = pa.concat_tables(written)
                created = rows["created_us"].cast(MOMENT)
                rows = rows.drop_columns([STAMPS[1], "created_us", "written_us"])
                rows = rows.append_column(STAMPS[1], created)
                yield rows.select(schema.names).cast(schema)


def _compare(
    history: RedisHistory, contract: ModelContract, rows: pa.Table
) -> tuple[dict[str, int], list[Worst]]:
    """Feature -> values that differ, only those with any; and the rows with the most of them."""
    vectors = rows["vector"].combine_chunks()
    used = vectors.flatten().to_numpy(zero_copy_only=False).reshape(rows.num_rows, -1)
    read_us = rows["read_at"].cast(pa.int64()).to_numpy()
    predicted_us = rows["predicted_at"].cast(pa.int64()).to_numpy()
    of, at = history.moments(read_us, predicted_us)
    entities = rows.select(["user_id", "item_id"]).take(pa.array(of))
    entities = entities.append_column("event_timestamp", pa.array(at, MOMENT))
    retrieved = contract.matrix(history.retrieve(contract, entities))
    views: dict[str, list[int]] = {}
    for column, name in enumerate(contract.features):
        views.setdefault(name.split("__", 1)[0], []).append(column)
    same = (used[of] == retrieved) | (np.isnan(used[of]) & np.isnan(retrieved))
    differs = np.zeros(used.shape, np.bool_)
    first = np.unique(of, return_index=True)[1]  # the retrieval as of the prediction itself
    for columns in views.values():
        # A view's row is read whole: one moment must explain all of its values.
        right = np.zeros(rows.num_rows, np.bool_)
        np.logical_or.at(right, of, same[:, columns].all(axis=1))
        wrong = ~same[first][:, columns]
        differs[:, columns] = wrong & ~right[:, None]
    counts = differs.sum(axis=0)
    return (
        {contract.features[i]: int(counts[i]) for i in np.flatnonzero(counts)},
        list(_worst(rows, contract, differs, used, retrieved[first])),
    )


def _worst(
    rows: pa.Table,
    contract: ModelContract,
    differs: NDArray[np.bool_],
    used: NDArray[np.float32],
    retrieved: NDArray[np.float32],
) -> Iterator[Worst]:
    order: Sequence[int] = np.argsort(-differs.sum(axis=1), kind="stable")[:WORST].tolist()
    for row in order:
        columns = np.flatnonzero(differs[row])
        if len(columns):
            yield Worst(
                **{
                    name: rows[name][row].as_py()
                    for name in ("request_id", "user_id", "item_id", "predicted_at")
                },
                differing={
                    contract.features[i]: (_number(used[row, i]), _number(retrieved[row, i]))
                    for i in columns
                },
            )


def _number(value: np.float32) -> float | None:
    return None if np.isnan(value) else float(value)
