"""Any event log -> canonical events, by day; what cannot be used goes to quarantine."""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.events import EVENT_ORDER, EVENT_SCHEMA
from nextbuy.ingest import quarantine
from nextbuy.ingest.lines import Progress
from nextbuy.ingest.log_reader import find_files, open_rows
from nextbuy.ingest.mapping import judged, read_items, with_items
from nextbuy.ingest.report import FileCounts, IngestReport, accept
from nextbuy.ingest.source import OPTIONAL, Source
from nextbuy.settings import Settings
from nextbuy.sql import literal, read_parquet
from nextbuy.versioned_table import (
    Manifest,
    file_digest,
    fingerprint,
    manifest,
    new_version,
    workplace,
)

CODE = (Path(__file__).parent, Path(__file__).parents[1] / "events.py")
COLUMNS = ", ".join(EVENT_SCHEMA.names)
DERIVED_FROM = [name for name in EVENT_SCHEMA.names if name != "event_id"]


def is_up_to_date(
    logs: Sequence[str | Path],
    source: Source,
    settings: Settings,
    *,
    items: str | Path | None = None,
    replace: bool = False,
) -> bool:
    """Whether these logs, none of their rows refused, were the last to be published this way."""
    receipt = _receipt(settings)
    if not receipt.exists():
        return False
    files, item_files = find_files(logs), find_files([items]) if items is not None else []
    made_from = [_inputs(files, item_files, source, adds=False)]
    if not replace:
        made_from.append(_inputs(files, item_files, source, adds=True))
    last = json.loads(receipt.read_text())
    return (
        last["inputs"] in made_from
        and last["version"] == settings.events.resolve().name
        # A row refused for lying in the future may be good by now.
        and not _refused_folder(settings, source, files).exists()
    )


def ingest(
    logs: Sequence[str | Path],
    source: Source,
    settings: Settings,
    *,
    items: str | Path | None = None,
    max_bad_share: float | None = None,
    replace: bool = False,
    gate: Callable[[Path], None] | None = None,
    progress: Progress = lambda _: None,
    now: datetime | None = None,
) -> IngestReport:
    """Add the events of a log to the published ones; all of them, or none.

    A log may come in pieces, in any order and more than once: the table is the same, byte for
    byte. Where a log with ids of its own uses an id for two different events, the first published
    stays (within a batch, the first by time and content) and the other is refused.

    Args:
        logs: files and globs.
        source: how the log is written.
        settings: where things are.
        items: file or glob of the item table that the source declares.
        max_bad_share: refused rows over rows read that are put up with, instead of the source's.
        replace: let the events of these logs take the place of all that were published.
        gate: called with the Parquet file of new events before they are published; raises
            NextbuyError to keep them out.
        progress: told in words what is being done.
        now: the moment against which the future is told, instead of the clock's.

    Raises:
        NextbuyError: the log cannot be read, lacks a column, has too many bad rows, mixes with
            another source's events, or the gate refused it. What was published stays as it was.
    """
    files = find_files(logs)
    if items is not None and source.items is None:
        raise NextbuyError(
            f"The source {source.name!r} declares no item table, so {items} has no meaning. "
            "Describe it under items in the source file."
        )
    item_files = [] if items is None else find_files([items])
    published = None if replace else manifest(settings.events)
    info = _info(source, bool(item_files), published, settings)
    folder = _refused_folder(settings, source, files)
    with ingest_workplace(settings) as work, duckdb_connection(settings) as connection:
        # Order is made where it counts; to keep it everywhere costs memory.
        connection.execute("SET preserve_insertion_order = false")
        if source.items and item_files:
            read_items(connection, source, source.items, item_files, progress)
        _read_log(
            connection, source, files, work / "rows.parquet", now or datetime.now(UTC), progress
        )
        progress("looking for duplicates")
        _compare(connection, source, settings, published)
        report = _report(connection, source, files, folder)
        if report.quarantined:
            quarantine.write(connection, "refused", folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
        share = source.limits.max_bad_share if max_bad_share is None else max_bad_share
        accept(report, share, source, nothing_there=published is None)
        if not report.published:
            return report
        new = work / "new.parquet"
        fresh = "(SELECT * FROM batch ANTI JOIN present USING (event_id))"
        if source.items and item_files:
            fresh = with_items(source.items, fresh)
        connection.execute(f"COPY (SELECT {COLUMNS} FROM {fresh}) TO {literal(new)}")
        if gate:
            progress("checking the new events")
            gate(new)
        progress("publishing")
        days = _publish(connection, new, settings, published, info)
    inputs = _inputs(files, item_files, source, adds=published is not None)
    receipt = {"inputs": inputs, "version": settings.events.resolve().name}
    _receipt(settings).parent.mkdir(exist_ok=True)
    _receipt(settings).write_text(json.dumps(receipt))
    return report.model_copy(update={"days": days})


def _info(
    source: Source, with_items: bool, published: Manifest | None, settings: Settings
) -> dict[str, Any]:
    """What later stages need to know; refuses to mix what does not belong together."""
    info = {
        "source": source.name,
        "mapping": source.mapping,
        "provides": source.provides(with_items),
    }
    if published is None:
        return info
    start_anew = (
        "Ingest into another data folder (NEXTBUY_DATA), or replace what is there (--replace)."
    )
    if published.info["source"] != source.name:
        raise NextbuyError(
            f"{settings.events} holds events of the source {published.info['source']!r}; events of "
            f"{source.name!r} must not be mixed in, their users and items are others. {start_anew}"
        )
    if published.info["mapping"] != source.mapping:
        raise NextbuyError(
            f"The mapping of {source.name!r} is not the one that {settings.events} was made with: "
            f"the same row would become another event. {start_anew}"
        )
    return info | {"provides": sorted({*info["provides"], *published.info["provides"]})}


def _inputs(
    files: Sequence[Path], item_files: Sequence[Path], source: Source, *, adds: bool
) -> str:
    """Identifies a batch, how it is read, and whether it came on top of others."""
    digests = [sorted(file_digest(file) for file in group) for group in (files, item_files)]
    return fingerprint(digests, source.model_dump(mode="json"), adds, *CODE)


def _receipt(settings: Settings) -> Path:
    """Which batch the published events end with; beside them, for equal events are equal bytes."""
    return settings.reports / "ingest.json"


def _refused_folder(settings: Settings, source: Source, files: Sequence[Path]) -> Path:
    run = fingerprint(sorted(file_digest(file) for file in files))[:12]
    return settings.quarantine / f"{source.name}-{run}"


def ingest_workplace(settings: Settings) -> AbstractContextManager[Path]:
    """A folder for the one run that adds events.

    Raises:
        NextbuyError: another run is adding events.
    """
    busy = f"Another run is ingesting into {settings.data}"
    return workplace(settings.data / "tmp" / "ingest", busy)


def _read_log(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    files: Sequence[Path],
    target: Path,
    now: datetime,
    progress: Progress,
) -> None:
    """Read the log once; map and judge every row. Leaves the relation `rows`."""
    asked = {f"fields.{name}": column for name, column in source.fields.items()}
    with open_rows(connection, source, files, asked, source.explode, progress) as rows:
        connection.execute(f"COPY ({judged(source, rows, now)}) TO {literal(target)}")
    connection.execute(f"CREATE VIEW rows AS SELECT * FROM {literal(target)}")


def _compare(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    settings: Settings,
    published: Manifest | None,
) -> None:
    """Tell new events from repeated ones.

    Leaves the relations `repeats` (the rows of every id that comes more than once, `place` 1 is
    the one to keep, `variant` above 1 has other content), `batch` (one row per id), `present` (ids
    published before) and `refused`.
    """
    good = f"SELECT {COLUMNS}, file, row FROM rows WHERE reason IS NULL AND ignored IS NULL"
    content = ", ".join(f"{name} NULLS LAST" for name in ("event_time", *DERIVED_FROM))
    connection.execute(
        f"""CREATE TABLE repeats AS
        WITH ids AS (SELECT event_id FROM ({good}) GROUP BY event_id HAVING count(*) > 1)
        SELECT *, row_number() OVER (PARTITION BY event_id ORDER BY {content}) AS place,
            rank() OVER (PARTITION BY event_id ORDER BY {content}) AS variant
        FROM ({good}) SEMI JOIN ids USING (event_id)"""
    )
    connection.execute(
        f"""CREATE VIEW batch AS
        SELECT * FROM ({good}) ANTI JOIN repeats USING (event_id)
        UNION ALL SELECT {COLUMNS}, file, row FROM repeats WHERE place = 1"""
    )
    old = _published_files(connection, source, settings, published)
    # What an item table adds may have been unknown when the event was published.
    added = source.items.fields if source.items else ()
    own = ", ".join(name for name in DERIVED_FROM if name not in added)
    connection.execute(
        f"""CREATE TABLE present AS
        SELECT old.event_id, row({_of("old", own)}) IS DISTINCT FROM row({_of("batch", own)})
            AS differs FROM {old} AS old JOIN batch USING (event_id)"""
    )
    label = literal(source.label("event_id"))
    conflict = f"""SELECT file, row, 'conflicting_event_id' AS reason, {label} AS "column",
        event_id AS value, json_object({", ".join(f"'{c}', {c}" for c in EVENT_SCHEMA.names)})
        AS raw"""
    connection.execute(
        f"""CREATE VIEW refused AS
        SELECT file, row, reason, "column", value, raw FROM rows WHERE reason IS NOT NULL
        UNION ALL {conflict} FROM repeats WHERE variant > 1
        UNION ALL {conflict} FROM batch SEMI JOIN (FROM present WHERE differs) USING (event_id)"""
    )


def _of(table: str, columns: str) -> str:
    return ", ".join(f"{table}.{name}" for name in columns.split(", "))


def _published_files(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    settings: Settings,
    published: Manifest | None,
) -> str:
    """The published events among which an event of this batch may be, as a relation."""
    days = list(published.days) if published else []
    if "event_id" not in source.fields:  # a derived id holds the time: look at the same days only
        days = _days(connection, "batch", among=days)
    return _read_days(settings, days)


def _days(
    connection: duckdb.DuckDBPyConnection, relation: str, among: Collection[str]
) -> list[str]:
    found = connection.execute(
        f"SELECT DISTINCT CAST(CAST(event_time AS DATE) AS VARCHAR) FROM {relation}"
    ).fetchall()
    return sorted({day for (day,) in found}.intersection(among))


def _read_days(settings: Settings, days: Sequence[str]) -> str:
    if not days:
        return f"(SELECT {COLUMNS} FROM batch LIMIT 0)"
    return read_parquet(settings.events / f"day={day}" / "part-0.parquet" for day in days)


def _publish(
    connection: duckdb.DuckDBPyConnection,
    new: Path,
    settings: Settings,
    published: Manifest | None,
    info: dict[str, Any],
) -> int:
    """Write the days that have new events, keep the others; return how many were written."""
    events = f"read_parquet({literal(new)})"
    known = set(published.days) if published else set()
    touched = _days(connection, events, among=known)
    connection.execute(
        f"CREATE VIEW merged AS SELECT {COLUMNS} FROM {events} "
        f"UNION ALL SELECT {COLUMNS} FROM {_read_days(settings, touched)}"
    )
    with new_version(settings.events, fingerprint(info), info) as version:
        for day in sorted(known.difference(touched)):
            version.keep(day)
        version.write_days(connection, "merged", "event_time", EVENT_ORDER)
        return len(list(version.folder.iterdir())) - len(known.difference(touched))


def _report(
    connection: duckdb.DuckDBPyConnection, source: Source, files: Sequence[Path], folder: Path
) -> IngestReport:
    """Count what became of every row, before anything is published."""
    ignored: Counter[str] = Counter()
    per_file: dict[str, Counter[str]] = {str(file): Counter() for file in files}
    for file, name, n in connection.execute(
        "SELECT file, ignored, count(*) FROM rows GROUP BY ALL"
    ).fetchall():
        per_file[file]["read"] += n
        if name is not None:
            ignored[name] += n
            per_file[file]["ignored"] += n
    quarantined: Counter[str] = Counter()
    for file, reason, n in connection.execute(
        "SELECT file, reason, count(*) FROM refused GROUP BY ALL"
    ).fetchall():
        quarantined[reason] += n
        per_file[file]["quarantined"] += n
    repeated = _one(connection, "SELECT count(*) FROM repeats WHERE place > 1 AND variant = 1")
    present = _one(connection, "SELECT count(*) FROM present WHERE NOT differs")
    read = sum(counts["read"] for counts in per_file.values())
    mapped = [name for name in OPTIONAL if name in source.fields]
    filled = ", ".join(f"count({name})" for name in mapped) or "0"
    first, last, *full = connection.execute(
        f"SELECT min(event_time), max(event_time), {filled} FROM batch"
    ).fetchall()[0]
    return IngestReport(
        read=read,
        published=read - repeated - present - ignored.total() - quarantined.total(),
        already_present=present,
        duplicates_in_batch=repeated,
        ignored=dict(sorted(ignored.items())),
        quarantined=dict(sorted(quarantined.items())),
        files={
            file: FileCounts(
                read=counts["read"], ignored=counts["ignored"], quarantined=counts["quarantined"]
            )
            for file, counts in per_file.items()
        },
        first_event=first,
        last_event=last,
        days=0,
        empty_columns=tuple(name for name, n in zip(mapped, full, strict=False) if not n),
        quarantine=folder if quarantined else None,
        explanation=quarantine.explain(connection, "refused"),
    )


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    return int(connection.execute(query).fetchall()[0][0])
