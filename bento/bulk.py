"""Bulk scoring: every shopper's latest items, from the offline store to Parquet.

`scores/<model>-<digest>/part-0000.parquet`, a part per share of the shoppers. A part appears
complete or not at all, and a stopped run resumes where it ended; `scores/latest` points to the last
run that was finished.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore

from bento.export import export_champion
from bento.model import Model
from bento.reader import bind
from nextbuy.atomic import replacing
from nextbuy.connection import duckdb_connection
from nextbuy.settings import Settings
from nextbuy.sql import literal, read_parquet
from nextbuy.times import to_datetime
from nextbuy.versioned_table import files, fingerprint, require

SCORE_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("probability", pa.float64(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),  # 1 is the shopper's likeliest
        pa.field("model", pa.string(), nullable=False),
        pa.field("as_of", pa.timestamp("us", tz="UTC"), nullable=False),
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


def score(
    settings: Settings,
    progress: Callable[[int, int], None] = lambda done, parts: None,
    part_rows: int = PART_ROWS,
) -> BulkResult:
    """Score each shopper's items of the latest session, as of the newest event.

    Features come point-in-time from the offline store, so the result does not depend on Redis; the
    same model and tables give the same folder and the same bytes.

    >>> score(Settings()).rows
    48213

    Args:
        settings: where the feature tables are and the scores go.
        progress: called with the number of parts done and of all parts.
        part_rows: about how many pairs a part holds.

    Raises:
        NextbuyError: there is no champion or no feature table, or they do not fit each other.
    """
    tag = export_champion(settings)
    model = Model(tag, Path(bentoml.models.get(tag).path), threads=os.cpu_count() or 1)
    store = FeatureStore(repo_path=str(settings.feature_repo))
    bound = bind(store, model.contract)
    names = ["recent_items", *(view.name for view in bound.views)]
    tables = [require(settings.features / n, "nextbuy features").fingerprint for n in names]
    as_of = as_of_newest(settings)
    latest = latest_items(settings, as_of)
    with duckdb_connection(settings) as connection:
        query = f"SELECT coalesce(sum(len(item_ids)), 0)::BIGINT FROM ({latest})"
        ((pairs,),) = connection.execute(query).fetchall()
    parts = max(1, -(-pairs // part_rows))
    digest = fingerprint(tag, tables, as_of, parts)[:12]
    folder = settings.data / "scores" / f"{tag.split(':')[1]}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    scored = 0
    for part in range(parts):
        file = folder / f"part-{part:04}.parquet"
        if not file.exists():
            job = store.get_historical_features(
                entity_df=pairs_query(latest, as_of, part, parts),
                features=bound.service,
                full_feature_names=True,
                filter_by_created_timestamp=True,
            )
            with replacing(file) as temporary:
                pq.write_table(_scores(job, model, as_of), temporary, compression="zstd")
            scored += 1
        progress(part + 1, parts)
    with replacing(folder.parent / "latest") as link:
        link.symlink_to(folder.name)
    rows = sum(pq.read_metadata(f).num_rows for f in folder.glob("part-*.parquet"))
    return BulkResult(folder, rows, parts, scored)


def as_of_newest(settings: Settings) -> datetime:
    """The time of the newest event.

    Raises:
        NextbuyError: there are no sessions.
    """
    return to_datetime(require(settings.sessions, "nextbuy sessionize").info["newest_us"])


def latest_items(settings: Settings, as_of: datetime) -> str:
    """The query for each shopper's items of the latest session."""
    return (
        "SELECT user_id, arg_max(item_ids, event_timestamp) AS item_ids "
        f"FROM {read_parquet(files(settings.features / 'recent_items'))} "
        f"WHERE event_timestamp <= TIMESTAMPTZ {literal(as_of.isoformat())} GROUP BY user_id"
    )


def pairs_query(latest: str, as_of: datetime, part: int, parts: int) -> str:
    """The query for one part's pairs, each with the moment `as_of`."""
    # By md5 and not hash(): the parts of a stopped run must be the same with another DuckDB.
    share = f"('0x' || substr(md5(user_id), 1, 8))::UBIGINT % {parts} = {part}"
    return (
        f"SELECT user_id, unnest(item_ids) AS item_id, "
        f"TIMESTAMPTZ {literal(as_of.isoformat())} AS event_timestamp FROM ({latest}) WHERE {share}"
    )


def _scores(job: Any, model: Model, as_of: datetime) -> pa.Table:
    """Score a retrieval batch by batch; its features are never held as a whole."""
    reader = job.to_reader(ordered=False)
    keys = [reader.schema.empty_table().select(["user_id", "item_id"])]
    probabilities = [np.empty(0)]
    for batch in reader:
        table = pa.Table.from_batches([batch])
        keys.append(table.select(["user_id", "item_id"]))
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
    columns = {
        "rank": pa.array(rank, pa.int32()),
        "model": pa.repeat(model.tag, len(rows)),
        "as_of": pa.repeat(pa.scalar(as_of, SCORE_SCHEMA.field("as_of").type), len(rows)),
    }
    for name, column in columns.items():
        rows = rows.append_column(name, column)
    return rows.cast(SCORE_SCHEMA)
