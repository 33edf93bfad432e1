"""Publishes live events: they become part of `events/`."""

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.events import EVENT_SCHEMA
from nextbuy.ingest.ingest import ingest_workplace, publish_events
from nextbuy.live.event_store import COLUMNS, LiveStore, now_us, to_arrow
from nextbuy.live.write_history import prune
from nextbuy.settings import Settings
from nextbuy.sql import literal, read_parquet
from nextbuy.times import DAY
from nextbuy.versioned_table import files, manifest

RETENTION_US = 30 * DAY
"""How long the history of writes to Redis is retained, for parity."""


def merge_live(settings: Settings, *, gate: Callable[[Path], None] | None = None) -> int:
    """Add the live events to the published ones; returns how many were new there.

    The next build of sessions and feature tables includes them. Only the days they belong to are
    written; a second call publishes nothing.

    Args:
        settings: where things are.
        gate: called with the Parquet file of these events before they are published.

    Raises:
        NextbuyError: no log was ingested yet, which says what these events provide; another run
            is adding events; or the gate refused them. The live store keeps them in each case.
    """
    with ingest_workplace(settings) as work:
        return _merge(settings, work / "new.parquet", gate)


def _merge(settings: Settings, new: Path, gate: Callable[[Path], None] | None) -> int:
    published = manifest(settings.events)
    if published is None:
        raise NextbuyError(
            "There are no published events yet to add the live ones to. "
            "Begin with: nextbuy ingest LOG --source configs/sources/NAME.yaml"
        )
    with LiveStore(settings) as store:
        prune(store, now_us() - RETENTION_US)
        arrived = to_arrow(
            store.sql.execute(
                f"SELECT {', '.join(COLUMNS)} FROM events WHERE seq IS NOT NULL"
            ).fetchall()
        )
    names = ", ".join(
        f"make_timestamptz(event_us) AS {name}" if name == "event_time" else name
        for name in EVENT_SCHEMA.names
    )
    with duckdb_connection(settings) as connection:
        connection.register("arrived", arrived)
        old = read_parquet(files(settings.events))
        connection.execute(
            f"COPY (SELECT {names} FROM arrived ANTI JOIN {old} AS old USING (event_id)) "
            f"TO {literal(new)}"
        )
    count = int(pq.read_metadata(new).num_rows)
    if not count:
        return 0
    if gate:
        gate(new)
    publish_events(new, settings, published, published.info)
    return count
