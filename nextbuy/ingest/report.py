"""What became of a log's rows, and whether that is good enough to be published."""

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from nextbuy.errors import NextbuyError
from nextbuy.ingest.source import Source


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
    """Event name -> rows left aside on purpose."""
    quarantined: dict[str, int]
    """Reason -> refused rows."""
    files: dict[str, FileCounts]
    first_event: datetime | None
    """Time of the first good event of the log, UTC; None if there is none."""
    last_event: datetime | None
    days: int
    """Days of the events table that were written anew."""
    empty_columns: tuple[str, ...]
    """Columns that the source maps, but that hold no value in any good event."""
    quarantine: Path | None
    """Folder of the refused rows; None if there are none."""
    explanation: str
    """A line per reason for refusal, with an example and the remedy."""

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
        if self.empty_columns:
            text += f"\nmapped, but without any value: {', '.join(self.empty_columns)}"
        if self.quarantine:
            text += f"\nrefused rows are in {self.quarantine}\n{self.explanation}"
        return text


def accept(report: IngestReport, share: float, source: Source, nothing_there: bool) -> None:
    """Raise where the log is too bad to be published."""
    refused = sum(report.quarantined.values())
    if refused > share * report.read:
        raise NextbuyError(
            f"{refused:,} of {report.read:,} rows are refused ({refused / report.read:.2%}; at "
            f"most {share:.2%} are put up with), so nothing is published:\n{report.explanation}\n"
            f"The refused rows are in {report.quarantine}. Mend the log or the mapping of "
            f"{source.name!r}; if the log is known to be like that, raise limits.max_bad_share in "
            "the source file."
        )
    if nothing_there and not report.published:
        raise NextbuyError(
            f"There is no event in {', '.join(report.files)}: {report.read:,} rows read, "
            f"{sum(report.ignored.values()):,} of them ignored. Check that it is the right file."
        )
