"""A small shop's log, written by the tests in every format."""

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb

from nextbuy.ingest.ingest import publish, stage_events
from nextbuy.ingest.lines import Progress
from nextbuy.ingest.report import IngestReport
from nextbuy.ingest.source import Source
from nextbuy.settings import Settings
from nextbuy.versioned_table import files, manifest

SHOP: dict[str, Any] = {
    "name": "shop",
    "format": "csv",
    "fields": {
        "user_id": "user",
        "event_time": "at",
        "event_type": "what",
        "item_id": "sku",
        "price": "price",
    },
    "event_types": {"pv": "view", "cart": "add_to_cart", "buy": "purchase", "hello": "login"},
    "ignored": ["fav"],
    "limits": {"max_bad_share": 0.5},
}
HEADER = "user,at,what,sku,price"


def shop(**change: Any) -> Source:
    """The shop's source with some settings changed."""
    return Source.model_validate(SHOP | change)


def log(path: Path, *lines: str, header: str = HEADER) -> Path:
    """Write a CSV log, gzipped if it is called so."""
    text = "\n".join([*([header] if header else []), *lines]) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def ingest(
    logs: list[Any],
    source: Source,
    settings: Settings,
    *,
    progress: Progress = lambda _: None,
    **options: Any,
) -> IngestReport:
    """Stage a log and publish it unchecked; the options are those of `stage_events`."""
    with stage_events(logs, [source], settings, progress=progress, **options) as staged:
        return publish(staged, progress)


def event_rows(settings: Settings) -> list[dict[str, Any]]:
    """What is published, in the order of event_time and event_id."""
    return query(
        f"SELECT * FROM read_parquet('{files(settings.events)}', hive_partitioning = false) "
        "ORDER BY event_time, event_id"
    )


def quarantined(report: IngestReport) -> list[dict[str, Any]]:
    """What was refused, `raw` decoded."""
    assert report.quarantine is not None
    return refused_rows(report.quarantine)


def refused_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a quarantine folder, `raw` decoded."""
    found = query(f"SELECT * FROM '{folder}/*.parquet' ORDER BY file, row")
    return [row | {"raw": json.loads(row["raw"])} for row in found]


def query(sql: str) -> list[dict[str, Any]]:
    """Rows as dictionaries, times in UTC."""
    with duckdb.connect() as engine:
        engine.execute("SET TimeZone = 'UTC'")
        cursor = engine.execute(sql)
        names = [column[0] for column in cursor.description or []]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def published_bytes(settings: Settings) -> dict[str, bytes]:
    """Every file of the published version, the manifest included."""
    root = settings.events.resolve()
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def reconciles(report: IngestReport, settings: Settings | None = None) -> bool:
    """Whether no row is lost: neither in the sum, nor by file, nor in the quarantine."""
    ignored, refused = sum(report.ignored.values()), sum(report.quarantined.values())
    kept = report.published + report.already_present + report.duplicates_in_batch
    by_file = report.files.values()
    in_quarantine = len(quarantined(report)) if report.quarantine else 0
    published = manifest(settings.events) if settings else None
    return (
        report.read == kept + ignored + refused
        and report.read == sum(counts.read for counts in by_file)
        and ignored == sum(counts.ignored for counts in by_file)
        and refused == sum(counts.quarantined for counts in by_file) == in_quarantine
        and (published is None or published.rows >= report.published)
    )
