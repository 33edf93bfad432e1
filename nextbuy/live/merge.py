"""Publishes live events, in the three steps of an ingest: stage, check, publish."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.events import EVENT_SCHEMA, why_invalid
from nextbuy.ingest.ingest import ingest_workplace, publish_events
from nextbuy.live.event_store import COLUMNS, EventRow, LiveStore, now_us, to_arrow
from nextbuy.live.set_apart import set_apart
from nextbuy.live.write_history import prune
from nextbuy.settings import Settings
from nextbuy.sql import literal, read_parquet
from nextbuy.times import DAY
from nextbuy.versioned_table import Manifest, files, manifest

RETENTION_US = 30 * DAY
"""How long the history of writes to Redis is retained, for parity."""


@dataclass(frozen=True)
class StagedLiveEvents:
    """Live events that are not published yet, while `stage_live_events` holds the lock."""

    settings: Settings
    file: Path
    """Parquet file in the columns of `EVENT_SCHEMA`."""
    count: int
    set_apart: int
    """Events that an older version took and that are none by today's rules; they stay live."""
    published: Manifest
    """The version they come on top of."""


@contextmanager
def stage_live_events(settings: Settings) -> Iterator[StagedLiveEvents]:
    """Stage the live events that are not published yet; none after a merge.

    Until the block ends, no other run can add events. The live store keeps all of its events.

    Raises:
        NextbuyError: no log was ingested yet, which says what these events provide; or another
            run is adding events.
    """
    with ingest_workplace(settings) as work:
        published = manifest(settings.events)
        if published is None:
            raise NextbuyError(
                "There are no published events yet to add the live ones to. "
                "Begin with: nextbuy ingest LOG --source configs/sources/NAME.yaml"
            )
        with LiveStore(settings) as store:
            prune(store, now_us() - RETENTION_US)
            rows = [
                EventRow._make(row)
                for row in store.sql.execute(
                    f"SELECT {', '.join(COLUMNS)} FROM events WHERE seq IS NOT NULL"
                )
            ]
            invalid = {row.event_id: why for row in rows if (why := why_invalid(row._asdict()))}
            set_apart(store, invalid)
            arrived = to_arrow([row for row in rows if row.event_id not in invalid])
        columns = ", ".join(
            f"make_timestamptz(event_us) AS {name}" if name == "event_time" else name
            for name in EVENT_SCHEMA.names
        )
        file, old = work / "new.parquet", read_parquet(files(settings.events))
        with duckdb_connection(settings) as connection:
            connection.register("arrived", arrived)
            connection.execute(
                f"COPY (SELECT {columns} FROM arrived ANTI JOIN {old} AS old USING (event_id)) "
                f"TO {literal(file)}"
            )
        count = pq.read_metadata(file).num_rows
        yield StagedLiveEvents(settings, file, count, len(invalid), published)


def publish(staged: StagedLiveEvents) -> None:
    """Make the staged events part of the published ones.

    Only the days they belong to are written. The next build of sessions and feature tables
    includes them.
    """
    if staged.count:
        publish_events(staged.file, staged.settings, staged.published, staged.published.info)
