"""Live events into the published ones."""

from collections.abc import Callable
from pathlib import Path

from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.events import EVENT_ORDER, EVENT_SCHEMA
from nextbuy.ingest.ingest import ingest_workplace
from nextbuy.live.event_store import COLUMNS, LiveStore, arrow, now_us
from nextbuy.live.write_history import prune
from nextbuy.settings import Settings
from nextbuy.sql import read_parquet
from nextbuy.times import DAY
from nextbuy.versioned_table import files, fingerprint, manifest, new_version

KEPT_US = 30 * DAY
"""For so long what was written to Redis stays on record, for parity."""


def absorb(settings: Settings, *, gate: Callable[[Path], None] | None = None) -> int:
    """Publish the live events: they become part of `events/`; returns how many were new there.

    Sessions and feature tables then hold them as soon as they are built again. Only the days they
    belong to are written; a second call publishes nothing.

    Args:
        settings: where things are.
        gate: called with the Parquet file of these events before they are published.

    Raises:
        NextbuyError: no log was ingested yet, which says what these events provide; another run
            is adding events; or the gate refused them. The live store keeps them all the same.
    """
    with ingest_workplace(settings) as work:
        return _absorb(settings, work / "new.parquet", gate)


def _absorb(settings: Settings, new: Path, gate: Callable[[Path], None] | None) -> int:
    published = manifest(settings.events)
    if published is None:
        raise NextbuyError(
            "There are no published events yet to add the live ones to. "
            "Begin with: nextbuy ingest LOG --source configs/sources/NAME.yaml"
        )
    with LiveStore(settings) as store:
        prune(store, now_us() - KEPT_US)
        live = arrow(
            store.sql.execute(
                f"SELECT {', '.join(COLUMNS)} FROM events WHERE seq IS NOT NULL"
            ).fetchall()
        )
    names = ", ".join(
        f"make_timestamptz(event_us) AS {name}" if name == "event_time" else name
        for name in EVENT_SCHEMA.names
    )
    with duckdb_connection(settings) as connection:
        connection.register("arrived", live)
        old = read_parquet(files(settings.events))
        connection.execute(
            f"CREATE TABLE fresh AS SELECT {names} FROM arrived "
            f"ANTI JOIN {old} AS old USING (event_id)"
        )
        touched = {
            str(day)
            for (day,) in connection.execute(
                "SELECT DISTINCT CAST(event_time AS DATE) FROM fresh"
            ).fetchall()
        }
        ((count,),) = connection.execute("SELECT count(*) FROM fresh").fetchall()
        if not count:
            return 0
        if gate:
            connection.execute(f"COPY fresh TO '{new}'")
            gate(new)
        listed = ", ".join(f"DATE '{day}'" for day in sorted(touched))
        columns = ", ".join(EVENT_SCHEMA.names)
        connection.execute(
            f"CREATE VIEW merged AS SELECT {columns} FROM fresh UNION ALL SELECT {columns} "
            f"FROM {old} WHERE CAST(event_time AS DATE) IN ({listed})"
        )
        with new_version(settings.events, fingerprint(published.info), published.info) as version:
            for day in sorted(set(published.days) - touched):
                version.keep(day)
            version.write_days(connection, "merged", "event_time", EVENT_ORDER)
    return int(count)
