"""Bulk scoring: whose horizon runs at a moment, from the offline store to Parquet.

`scores/<model>-<digest>/part-0000.parquet`, a part per share of the shoppers. A part appears
complete or not at all, and a stopped run resumes where it ended; `scores/latest` points to the last
run that was finished.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore

from bento.export import export_champion
from bento.model import Model, horizon
from bento.reader import bind
from nextbuy.atomic import replacing
from nextbuy.connection import duckdb_connection
from nextbuy.log_span import LogSpan
from nextbuy.settings import Settings
from nextbuy.sql import literal, read_parquet
from nextbuy.versioned_table import files, fingerprint, require

SCORE_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("probability", pa.float64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # 1 is the shopper's likeliest
        pa.field("model", pa.string(), nullable=False),
        pa.field("as_of", pa.timestamp("us", tz="UTC"), nullable=False),
        # The end of the session that last touched the item, and how long its horizon runs.
        pa.field("touched_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("horizon_ends", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)
"""Arrow types of a score; a part is ordered by shopper and rank."""

PART_ROWS = 2_000_000  # each part reads the feature tables once more


@dataclass(frozen=True)
class BulkResult:
    """What a run of `score` wrote."""

    folder: Path
    rows: int
    parts: int
    scored: int
    """Parts that this run scored; the others existed."""
    as_of: datetime
    expired: int
    """Pairs of shopper and item that are left out, since their horizon is over."""


def score(
    settings: Settings,
    progress: Callable[[int, int], None] = lambda done, parts: None,
    part_rows: int = PART_ROWS,
    at: datetime | None = None,
) -> BulkResult:
    """Score each shopper's items whose horizon runs at a moment: who is likely to buy what then.

    Features come point-in-time from the offline store, so the result does not depend on Redis; the
    same model, tables and moment give the same folder and the same bytes.

    >>> score(Settings(), at=as_of_newest(Settings())).rows
    48213

    Args:
        settings: where the feature tables are and the scores go.
        progress: called with the number of parts done and of all parts.
        part_rows: about how many pairs a part holds.
        at: the moment; None: the present, to the minute.

    Raises:
        NextbuyError: there is no champion or no feature table, or they do not fit each other.
    """
    tag = export_champion(settings)
    model = Model(tag, Path(bentoml.models.get(tag).path), threads=os.cpu_count() or 1)
    store = FeatureStore(repo_path=str(settings.feature_repo))
    bound = bind(store, model.contract)
    names = {"user_item", *(view.name for view in bound.views)}
    tables = [require(settings.features / n, "nextbuy features").fingerprint for n in sorted(names)]
    length = horizon(model.contract, settings)
    as_of = at or datetime.now(UTC).replace(second=0, microsecond=0)
    open_pairs = open_pairs_query(settings, as_of, length)
    with duckdb_connection(settings) as connection:
        ((pairs,),) = connection.execute(f"SELECT count(*) FROM ({open_pairs})").fetchall()
        ((known,),) = connection.execute(
            f"SELECT count(*) FROM ({touched_pairs_query(settings, as_of)})"
        ).fetchall()
    parts = max(1, -(-pairs // part_rows))
    digest = fingerprint(tag, tables, as_of, length.days, parts)[:12]
    folder = settings.data / "scores" / f"{tag.split(':')[1]}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    scored = 0
    for part in range(parts):
        file = folder / f"part-{part:04}.parquet"
        if not file.exists():
            job = store.get_historical_features(
                entity_df=part_query(open_pairs, as_of, part, parts),
                features=bound.service,
                full_feature_names=True,
                filter_by_created_timestamp=True,
            )
            with replacing(file) as temporary:
                scores = _scores(job, model, as_of, length)
                pq.write_table(scores, temporary, compression="zstd")
            scored += 1
        progress(part + 1, parts)
    with replacing(folder.parent / "latest") as link:
        link.symlink_to(folder.name)
    rows = sum(pq.read_metadata(f).num_rows for f in folder.glob("part-*.parquet"))
    return BulkResult(folder, rows, parts, scored, as_of, known - pairs)


def as_of_newest(settings: Settings) -> datetime:
    """The end of the log.

    Raises:
        NextbuyError: there are no sessions.
    """
    return LogSpan.from_info(require(settings.sessions, "nextbuy sessionize").info).end


def touched_pairs_query(settings: Settings, as_of: datetime) -> str:
    """The query for what shoppers had touched by a moment: user_id, item_id, touched_at."""
    return (
        "SELECT user_id, item_id, max(event_timestamp) AS touched_at "
        f"FROM {read_parquet(files(settings.features / 'user_item'))} "
        f"WHERE event_timestamp <= TIMESTAMPTZ {literal(as_of.isoformat())} GROUP BY ALL"
    )


def open_pairs_query(settings: Settings, as_of: datetime, length: timedelta) -> str:
    """The same for the pairs whose horizon, of this length, runs at that moment."""
    since = literal((as_of - length).isoformat())
    return f"FROM ({touched_pairs_query(settings, as_of)}) WHERE touched_at >= TIMESTAMPTZ {since}"


def part_query(pairs: str, as_of: datetime, part: int, parts: int) -> str:
    """The query for one part of the pairs, each with the moment `as_of`."""
    # By md5 and not hash(): the parts of a stopped run must be the same with another DuckDB.
    share = f"('0x' || substr(md5(user_id), 1, 8))::UBIGINT % {parts} = {part}"
    return (
        f"SELECT user_id, item_id, touched_at, TIMESTAMPTZ {literal(as_of.isoformat())} "
        f"AS event_timestamp FROM ({pairs}) WHERE {share}"
    )


def _scores(job: Any, model: Model, as_of: datetime, length: timedelta) -> pa.Table:
    """Score a retrieval batch by batch; its features are never held as a whole."""
    reader = job.to_reader(ordered=False)
    columns = ["user_id", "item_id", "touched_at"]
    keys = [reader.schema.empty_table().select(columns)]
    probabilities = [np.empty(0)]
    for batch in reader:
        table = pa.Table.from_batches([batch])
        keys.append(table.select(columns))
        if len(table):
            probabilities.append(model.booster.predict(model.contract.matrix(table)))
    rows = pa.concat_tables(keys).append_column(
        "probability", pa.array(np.concatenate(probabilities))
    )
    rows = rows.sort_by(
        [("user_id", "ascending"), ("probability", "descending"), ("item_id", "ascending")]
    )
    users = rows["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.flatnonzero(np.diff(users, prepend=-1))  # each shopper's first row
    rank = np.arange(len(rows)) - np.repeat(first, np.diff(first, append=len(rows))) + 1
    stamp = SCORE_SCHEMA.field("as_of").type
    added = {
        "rank": pa.array(rank, pa.int32()),
        "model": pa.repeat(model.tag, len(rows)),
        "as_of": pa.repeat(pa.scalar(as_of, stamp), len(rows)),
        "horizon_ends": pc.add(rows["touched_at"].cast(stamp), pa.scalar(length)),
    }
    for name, column in added.items():
        rows = rows.append_column(name, column)
    return rows.select(SCORE_SCHEMA.names).cast(SCORE_SCHEMA)
