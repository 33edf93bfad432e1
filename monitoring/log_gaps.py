"""Days without any event inside a log: its holes, and the pause before strays."""

from datetime import date, timedelta
from typing import NamedTuple

import pyarrow.parquet as pq

from nextbuy.log_span import STRAY_REMEDY, LogSpan
from nextbuy.settings import Settings
from nextbuy.times import to_datetime
from nextbuy.versioned_table import Manifest, require

GAP_DAYS = 90
"""Newest days of a log in which a gap is looked for: what monitoring compares lies in them."""
FEW = 0.001
"""Share of the events that are no log yet, before a gap: real logs hold a few from long ago."""
ONE_DAY = timedelta(days=1)


class Gap(NamedTuple):
    """Days without any event, between two with events."""

    first: date
    last: date
    after: int
    """Events that come after it."""
    are_strays: bool
    """Whether those are strays, which the log has not reached (`nextbuy.log_span`)."""

    @property
    def days(self) -> int:
        """How many they are."""
        return (self.last - self.first).days + 1

    @property
    def remedy(self) -> str:
        """What to do about it."""
        if self.are_strays:
            return f"Those are strays. {STRAY_REMEDY}"
        return (
            "Ingest those days: nextbuy ingest LOG --source NAME. Until then the labels whose "
            "horizon reaches into them stay unknown."
        )

    def __str__(self) -> str:
        return f"from {self.first} to {self.last} ({self.days} day{'s' * (self.days > 1)})"


def longest_gap(settings: Settings) -> Gap | None:
    """The longest gap that ended in the newest `GAP_DAYS` days of the log; None without one.

    Raises:
        NextbuyError: nothing is published, or no sessions yet.
    """
    published = require(settings.events, "nextbuy ingest LOG --source NAME")
    span = LogSpan.from_info(require(settings.sessions, "nextbuy sessionize").info)
    pauses = [
        (to_datetime(hole.after_us).date(), to_datetime(hole.before_us).date(), False)
        for hole in span.holes
    ]
    if span.strays:
        pauses.append((span.end.date(), date.fromisoformat(min(span.strays)), True))
    gaps = []
    for before, after, are_strays in pauses:
        n_before = _events(settings, published, until=before)
        if span.end.date() - after < GAP_DAYS * ONE_DAY and n_before >= FEW * published.rows:
            n_after = published.rows - n_before
            gaps.append(Gap(before + ONE_DAY, after - ONE_DAY, n_after, are_strays))
    return max(gaps, key=lambda gap: gap.days, default=None)


def _events(settings: Settings, published: Manifest, until: date) -> int:
    folders = (settings.events / f"day={day}" for day in published.days if day <= str(until))
    return sum(pq.read_metadata(file).num_rows for f in folders for file in f.glob("*.parquet"))
