"""What became of a log's rows, and whether the log is good enough to be published."""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Self

import duckdb
from pydantic import BaseModel, ConfigDict

from nextbuy.errors import NextbuyError
from nextbuy.ingest import quarantine
from nextbuy.ingest.repeated_hour import RepeatedHours
from nextbuy.ingest.source import OPTIONAL, Source
from nextbuy.log_span import explain_strays


class FileCounts(BaseModel):
    """What became of one file's rows; the rest of them are events."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    read: int
    ignored: int
    quarantined: int


class IngestReport(BaseModel):
    """What became of every row: `read` is the sum of the counts after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    read: int
    """Rows of the log; of an exploded log, elements."""
    published: int
    """New events."""
    already_present: int
    """Events that were published before."""
    duplicates_in_batch: int
    """Repetitions within the log."""
    ignored: dict[str, int]
    """Event name -> rows that the source ignores on purpose."""
    quarantined: dict[str, int]
    """Reason -> refused rows."""
    files: dict[str, FileCounts]
    first_event: datetime | None
    """Time of the first valid event of the log, UTC; None without one."""
    last_event: datetime | None
    days: int
    """Days of the events table that were written."""
    no_session: dict[str, int]
    """Session ids that stand for none (`undefined`) -> events that had them."""
    empty_columns: tuple[str, ...]
    """Columns that the source maps, but that hold no value in any valid event."""
    repeated_hours: RepeatedHours
    """Rows whose local time is in an hour that the clock repeats when it goes back."""
    quarantine: Path | None
    """Folder of the refused rows; None without one."""
    explanation: str
    """A line per reason for refusal, with an example and the remedy."""
    strays: str = ""
    """Which events, published ones included, lie beyond the end of the log; empty without any."""

    def __str__(self) -> str:
        refused, ignored = sum(self.quarantined.values()), sum(self.ignored.values())
        text = (
            f"{self.read:,} rows read: {self.published:,} published, {self.already_present:,} "
            f"already present, {self.duplicates_in_batch:,} repeated, {ignored:,} ignored, "
            f"{refused:,} refused"
        )
        if self.first_event:
            text += f"\nevents from {self.first_event:%Y-%m-%d %H:%M} to "
            text += f"{self.last_event:%Y-%m-%d %H:%M} UTC; {self.days} days written"
        if any(self.repeated_hours):
            by_order, unknown = self.repeated_hours
            text += (
                f"\n{by_order + unknown:,} rows in an hour that the clock repeats: {by_order:,} "
                f"placed by the order of the log, {unknown:,} taken to be in the second hour"
                f"{', for no order tells' if unknown else ''}"
            )
        if self.empty_columns:
            text += f"\nmapped, but without any value: {', '.join(self.empty_columns)}"
        if self.no_session:
            listed = ", ".join(f"{text!r} ({n:,})" for text, n in self.no_session.items())
            text += f"\nread as no session id, since it stands for none: {listed}"
        if self.quarantine:
            text += f"\nrefused rows are in {self.quarantine}\n{self.explanation}"
        return f"{text}\n{self.strays}" if self.strays else text

    def with_span(
        self,
        connection: duckdb.DuckDBPyConnection,
        relations: Sequence[str],
        vouched_us: int | None,
    ) -> Self:
        """The report that also names strays, among all events that will be published."""
        events = " UNION ALL ".join(
            f"SELECT event_id, user_id, event_time FROM {relation}" for relation in relations
        )
        strays = explain_strays(connection, f"({events})", vouched_us)
        return self.model_copy(update={"strays": strays})


class ComparedRows(NamedTuple):
    """The rows of a log by what becomes of them, as relations for use in SQL."""

    rows: str
    """Every row, as `map_and_validate` gives it."""
    repeats: str
    """The valid rows of every id that comes more than once: `place` 1 is the one to keep,
    `variant` above 1 has other content."""
    batch: str
    """One valid row per id."""
    present: str
    """The ids of `batch` that are published already; `differs` if with other content."""
    refused: str
    """The rows for quarantine, each with its reason."""


def build_report(
    connection: duckdb.DuckDBPyConnection,
    compared: ComparedRows,
    inputs: Sequence[tuple[Source, Sequence[Path]]],
    folder: Path,
    repeated_hours: RepeatedHours,
) -> IngestReport:
    """Count what became of every row, before anything is published; refused ones go to `folder`."""
    ignored: Counter[str] = Counter()
    per_file: dict[str, Counter[str]] = {str(f): Counter() for _, files in inputs for f in files}
    for file, name, n in connection.execute(
        f"SELECT file, ignored, count(*) FROM {compared.rows} GROUP BY ALL"
    ).fetchall():
        per_file[file]["read"] += n
        if name is not None:
            ignored[name] += n
            per_file[file]["ignored"] += n
    quarantined: Counter[str] = Counter()
    for file, reason, n in connection.execute(
        f"SELECT file, reason, count(*) FROM {compared.refused} GROUP BY ALL"
    ).fetchall():
        quarantined[reason] += n
        per_file[file]["quarantined"] += n
    repeated = _count(connection, f"FROM {compared.repeats} WHERE place > 1 AND variant = 1")
    present = _count(connection, f"FROM {compared.present} WHERE NOT differs")
    read = sum(counts["read"] for counts in per_file.values())
    mapped = [name for name in OPTIONAL if any(name in source.fields for source, _ in inputs)]
    filled = ", ".join(f"count({name})" for name in mapped) or "0"
    first, last, *full = connection.execute(
        f"SELECT min(event_time), max(event_time), {filled} FROM {compared.batch}"
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
        no_session=dict(
            connection.execute(
                f"SELECT no_session, count(*) FROM {compared.rows} WHERE no_session IS NOT NULL "
                "GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 20"
            ).fetchall()
        ),
        empty_columns=tuple(name for name, n in zip(mapped, full, strict=False) if not n),
        repeated_hours=repeated_hours,
        quarantine=folder if quarantined else None,
        explanation=quarantine.explain(connection, compared.refused),
    )


def check_acceptance(report: IngestReport, source: Source, *, is_first: bool) -> None:
    """Compare a report with the source's limits.

    Raises:
        NextbuyError: too many rows are refused; or nothing is published yet and the log has no
            event.
    """
    share = source.limits.max_bad_share
    refused = sum(report.quarantined.values())
    if refused > share * report.read:
        raise NextbuyError(
            f"{refused:,} of {report.read:,} rows are refused ({refused / report.read:.2%}; at "
            f"most {share:.2%} may be), so nothing is published:\n{report.explanation}\n"
            f"The refused rows are in {report.quarantine}. Correct the log or the mapping of "
            f"{source.name!r}; if the log is known to be like that, raise limits.max_bad_share in "
            "the source file."
        )
    if is_first and not report.published:
        raise NextbuyError(
            f"There is no event in {', '.join(report.files)}: {report.read:,} rows read, "
            f"{sum(report.ignored.values()):,} of them ignored. Check that it is the right file."
        )


def _count(connection: duckdb.DuckDBPyConnection, rows: str) -> int:
    return int(connection.execute(f"SELECT count(*) {rows}").fetchall()[0][0])
