"""Any event log -> canonical events, by day; what cannot be used goes to quarantine.

Three steps: `stage_events` reads and maps the log, the caller checks the staged file, `publish`
adds it to the published events.
"""

import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb

from nextbuy.atomic import write_text
from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.events import EVENT_ORDER, EVENT_SCHEMA
from nextbuy.ingest import quarantine
from nextbuy.ingest.lines import Progress
from nextbuy.ingest.log_files import find_files
from nextbuy.ingest.log_reader import layout, open_rows
from nextbuy.ingest.mapping import map_and_validate, read_items, with_items
from nextbuy.ingest.repeated_hour import place_repeated_hours, sum_of
from nextbuy.ingest.report import ComparedRows, IngestReport, build_report, check_acceptance
from nextbuy.ingest.source import Source, files_by_source
from nextbuy.log_span import VOUCHED
from nextbuy.settings import Settings
from nextbuy.shop import mark_shop
from nextbuy.sql import literal, read_parquet
from nextbuy.times import to_us
from nextbuy.versioned_table import (
    Manifest,
    file_digest,
    fingerprint,
    manifest,
    new_version,
    read_days,
    workplace,
)

CODE = (
    Path(__file__).parent,
    *(Path(__file__).parents[1] / name for name in ("events.py", "shop_clock.py")),
)
COLUMNS = ", ".join(EVENT_SCHEMA.names)
DERIVED_FROM = [name for name in EVENT_SCHEMA.names if name != "event_id"]


def is_up_to_date(
    logs: Sequence[str | Path],
    sources: Sequence[Source],
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
    made_from = [_inputs(files, item_files, sources, adds=False)]
    if not replace:
        made_from.append(_inputs(files, item_files, sources, adds=True))
    last = json.loads(receipt.read_text())
    return (
        last["inputs"] in made_from
        and last["version"] == settings.events.resolve().name
        # A row refused as lying in the future may be valid by now.
        and not _quarantine_folder(settings, sources[0], files).exists()
    )


@dataclass(frozen=True)
class StagedEvents:
    """A log's new events, ready to be checked and published while `stage_events` holds the lock."""

    settings: Settings
    report: IngestReport
    """What became of every row; its `days` are 0 until the events are published."""
    file: Path | None
    """Parquet file of the new events in the columns of `EVENT_SCHEMA`; None without new ones."""
    published: Manifest | None
    """The version they come on top of; None where they replace it or are the first."""
    info: dict[str, Any]
    """What the manifest says of the source, for later stages."""
    inputs: str
    """Identifies the logs and how they were read, for the receipt."""


@contextmanager
def stage_events(
    logs: Sequence[str | Path],
    sources: Sequence[Source],
    settings: Settings,
    *,
    items: str | Path | None = None,
    replace: bool = False,
    progress: Progress = lambda _: None,
    now: datetime | None = None,
) -> Iterator[StagedEvents]:
    """Map a log to canonical events and stage the new ones: all of them, or none.

    A log may come in pieces, in any order and more than once: the table is the same, byte for
    byte. Where a log with ids of its own uses an id for two different events, the first published
    stays (within a batch, the first by time and content) and the other is refused. Refused rows
    are in quarantine when the block begins. Until it ends, no other run can add events.

    Args:
        logs: files and globs.
        sources: how the log is written: one source, or one for each of the shop's inputs.
        settings: where things are.
        items: file or glob of the item table that the source declares.
        replace: let the events of these logs take the place of all published ones.
        progress: receives a message about each step.
        now: the current moment, instead of the clock's.

    Raises:
        NextbuyError: the log cannot be read, lacks a column, has too many bad rows, mixes with
            another source's events, or another run is adding events. Nothing is published.
    """
    files, item_files = find_files(logs), _item_files(sources, items)
    inputs = files_by_source(files, sources)
    source = sources[0]  # what is not an input's own is the same in all
    with ingest_workplace(settings) as work:
        published = None if replace else manifest(settings.events)
        info = _info(inputs, bool(item_files), published, settings)
        with duckdb_connection(settings) as connection:
            # Rows are ordered where it matters; keeping their order everywhere costs memory.
            connection.execute("SET preserve_insertion_order = false")
            known_items = None
            if source.items and item_files:
                known_items = read_items(connection, source, source.items, item_files, progress)
            now = now or datetime.now(UTC)
            staged_rows, placed = [], []
            for number, (its_source, its_files) in enumerate(inputs):
                staged_rows.append(work / f"rows-{number}.parquet")
                _read_log(connection, its_source, its_files, staged_rows[-1], now, progress)
                zone = its_source.time.zone
                placed.append(place_repeated_hours(connection, staged_rows[-1], zone))
            rows = read_parquet(staged_rows)
            progress("looking for duplicates")
            compared = _compare(
                connection, rows, [source for source, _ in inputs], settings, published
            )
            folder = _quarantine_folder(settings, source, files)
            report = build_report(connection, compared, inputs, folder, sum_of(placed))
            if report.quarantined:
                quarantine.write(connection, compared.refused, folder)
            else:
                shutil.rmtree(folder, ignore_errors=True)
            check_acceptance(report, source, is_first=published is None)
            file = work / "new.parquet" if report.published else None
            if file:
                new = f"(FROM {compared.batch} ANTI JOIN {compared.present} USING (event_id))"
                if source.items and known_items:
                    new = with_items(source.items, new, known_items)
                connection.execute(f"COPY (SELECT {COLUMNS} FROM {new}) TO {literal(file)}")
            relations = [read_parquet(file)] if file else []
            relations += [read_days(settings.events, published.days)] if published else []
            report = report.with_span(connection, relations, info.get(VOUCHED))
        made_from = _inputs(files, item_files, sources, adds=published is not None)
        yield StagedEvents(settings, report, file, published, info, made_from)


def publish(staged: StagedEvents, progress: Progress = lambda _: None) -> IngestReport:
    """Make the staged events part of the published ones, and write the receipt."""
    before = staged.published.info.get(VOUCHED) if staged.published else None
    if staged.file is None and staged.info.get(VOUCHED) == before:
        return staged.report
    progress("publishing")
    days = publish_events(staged.file, staged.settings, staged.published, staged.info)
    receipt = {"inputs": staged.inputs, "version": staged.settings.events.resolve().name}
    write_text(_receipt(staged.settings), json.dumps(receipt))
    return staged.report.model_copy(update={"days": days})


def publish_events(
    file: Path | None, settings: Settings, published: Manifest | None, info: dict[str, Any]
) -> int:
    """Merge new events into the published days; the caller holds `ingest_workplace`.

    Args:
        file: Parquet file of events whose ids are not published, in the columns of `EVENT_SCHEMA`;
            None where only `info` is new.
        settings: where things are.
        published: the version they come on top of; None to publish them alone.
        info: what the manifest says of the source.

    Returns:
        The number of days that were written; the others are taken over as they are.
    """
    known = set(published.days) if published else set()
    with duckdb_connection(settings) as connection:
        connection.execute("SET preserve_insertion_order = false")
        assert file or published, "there is something to publish"
        new = read_parquet(file) if file else read_days(settings.events, ())
        changed = _days(connection, new, among=known)
        merged = f"SELECT {COLUMNS} FROM {new}"
        if changed:
            merged += f" UNION ALL SELECT {COLUMNS} FROM {read_days(settings.events, changed)}"
        with new_version(settings.events, fingerprint(info), info) as version:
            for day in sorted(known.difference(changed)):
                version.keep(day)
            version.write_days(connection, f"({merged})", "event_time", EVENT_ORDER)
            return len(version.written())


def _item_files(sources: Sequence[Source], items: str | Path | None) -> list[Path]:
    if items is None:
        return []
    if sources[0].items is None:
        raise NextbuyError(
            f"The source {sources[0].name!r} declares no item table, so {items} has no meaning. "
            "Describe it under items in the source file."
        )
    return find_files([items])


def _info(
    inputs: Sequence[tuple[Source, Sequence[Path]]],
    with_items: bool,
    published: Manifest | None,
    settings: Settings,
) -> dict[str, Any]:
    """What later stages need to know of the source.

    Raises:
        NextbuyError: the published events are of another source, or a log of the same layout was
            mapped in another way.
    """
    name = inputs[0][0].name
    provides = {column for source, _ in inputs for column in source.provides(with_items)}
    mappings = {layout(source, files): source.mapping for source, files in inputs}
    ends = [source.limits.not_after for source, _ in inputs if source.limits.not_after]
    vouched = {VOUCHED: to_us(max(ends))} if ends else {}
    if published is None:
        return {"source": name, "mappings": mappings, "provides": sorted(provides), **vouched}
    start_over = (
        "Ingest into another data folder (NEXTBUY_DATA), or replace the published events "
        "(--replace)."
    )
    if published.info["source"] != name:
        raise NextbuyError(
            f"{settings.events} holds events of the source {published.info['source']!r}; events of "
            f"{name!r} must not be mixed in, their users and items are others. {start_over}"
        )
    known = published.info.get("mappings")
    if known is None:  # folders of version 0.1 have one mapping and do not say of which layout
        known = dict.fromkeys(mappings, published.info["mapping"])
    for its_layout, mapping in mappings.items():
        if known.get(its_layout, mapping) != mapping:
            raise NextbuyError(
                f"The mapping of {name!r} is not the one that {settings.events} was made with: "
                "the same row would become another event. If it is for another log of the shop, "
                f"say so by a name of its own under input in the source file. {start_over}"
            )
    return {
        "source": name,
        "mappings": dict(sorted((known | mappings).items())),
        "provides": sorted({*provides, *published.info["provides"]}),
        **vouched,
    }


def _inputs(
    files: Sequence[Path], item_files: Sequence[Path], sources: Sequence[Source], *, adds: bool
) -> str:
    """Identifies a batch, how it is read, and whether it came on top of others."""
    digests = [sorted(file_digest(file) for file in group) for group in (files, item_files)]
    mappings = [source.model_dump(mode="json") for source in sources]
    return fingerprint(digests, mappings, adds, *CODE)


def _receipt(settings: Settings) -> Path:
    """Which batch was published last. Not in the table itself: equal events are equal bytes."""
    return settings.reports / "ingest.json"


def _quarantine_folder(settings: Settings, source: Source, files: Sequence[Path]) -> Path:
    run = fingerprint(sorted(file_digest(file) for file in files))[:12]
    return settings.quarantine / f"{source.name}-{run}"


def ingest_workplace(settings: Settings) -> AbstractContextManager[Path]:
    """A folder for the one run that adds events.

    Raises:
        NextbuyError: another run is adding events.
    """
    mark_shop(settings)
    busy = f"Another run is ingesting into {settings.data}"
    return workplace(settings.data / "tmp" / "ingest", busy)


def _read_log(
    connection: duckdb.DuckDBPyConnection,
    source: Source,
    files: Sequence[Path],
    file: Path,
    now: datetime,
    progress: Progress,
) -> None:
    """Read the files of one input once, map and validate every row into `file`."""
    fields = {f"fields.{name}": column for name, column in source.fields.items()}
    with open_rows(connection, source, files, fields, source.explode, progress) as rows:
        connection.execute(f"COPY ({map_and_validate(source, rows, now)}) TO {literal(file)}")


def _compare(
    connection: duckdb.DuckDBPyConnection,
    rows: str,
    sources: Sequence[Source],
    settings: Settings,
    published: Manifest | None,
) -> ComparedRows:
    """Separate new events from repeated and published ones."""
    valid = f"SELECT {COLUMNS}, file, row FROM {rows} WHERE reason IS NULL AND ignored IS NULL"
    content = ", ".join(f"{name} NULLS LAST" for name in ("event_time", *DERIVED_FROM))
    connection.execute(
        f"""CREATE TABLE repeats AS
        WITH ids AS (SELECT event_id FROM ({valid}) GROUP BY event_id HAVING count(*) > 1)
        SELECT *, row_number() OVER (PARTITION BY event_id ORDER BY {content}) AS place,
            rank() OVER (PARTITION BY event_id ORDER BY {content}) AS variant
        FROM ({valid}) SEMI JOIN ids USING (event_id)"""
    )
    connection.execute(
        f"""CREATE VIEW batch AS
        SELECT * FROM ({valid}) ANTI JOIN repeats USING (event_id)
        UNION ALL SELECT {COLUMNS}, file, row FROM repeats WHERE place = 1"""
    )
    # What an item table adds may have been unknown when the event was published.
    items = sources[0].items
    added = items.fields if items else ()
    own = [name for name in DERIVED_FROM if name not in added]
    old = _published_days(connection, "batch", sources, settings, published)
    connection.execute(
        f"""CREATE TABLE present AS
        SELECT old.event_id, row({_of("old", own)}) IS DISTINCT FROM row({_of("batch", own)})
            AS differs FROM {old} AS old JOIN batch USING (event_id)"""
    )
    label = literal(sources[0].label("event_id"))
    conflict = f"""SELECT file, row, 'conflicting_event_id' AS reason, {label} AS "column",
        event_id AS value, json_object({", ".join(f"'{c}', {c}" for c in EVENT_SCHEMA.names)})
        AS raw, user_id"""
    connection.execute(
        f"""CREATE VIEW refused AS
        SELECT file, row, reason, "column", value, raw, user_id FROM {rows}
        WHERE reason IS NOT NULL
        UNION ALL {conflict} FROM repeats WHERE variant > 1
        UNION ALL {conflict} FROM batch SEMI JOIN (FROM present WHERE differs) USING (event_id)"""
    )
    return ComparedRows(rows, "repeats", "batch", "present", "refused")


def _of(table: str, columns: Sequence[str]) -> str:
    return ", ".join(f"{table}.{name}" for name in columns)


def _published_days(
    connection: duckdb.DuckDBPyConnection,
    batch: str,
    sources: Sequence[Source],
    settings: Settings,
    published: Manifest | None,
) -> str:
    """The published events that an event of this batch may repeat, as a relation."""
    days = list(published.days) if published else []
    if not any("event_id" in source.fields for source in sources):
        # a derived id holds the time: only the same days count
        days = _days(connection, batch, among=days)
    return read_days(settings.events, days) if days else f"(SELECT {COLUMNS} FROM {batch} LIMIT 0)"


def _days(
    connection: duckdb.DuckDBPyConnection, relation: str, among: Collection[str]
) -> list[str]:
    """The days (ISO) of a relation's events that are `among` these, sorted."""
    days = connection.execute(
        f"SELECT DISTINCT CAST(CAST(event_time AS DATE) AS VARCHAR) FROM {relation}"
    ).fetchall()
    return sorted({day for (day,) in days}.intersection(among))
