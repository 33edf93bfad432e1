"""Days without any event inside a log: a feed that stood still, or strays far from the rest."""

from datetime import date, timedelta
from itertools import pairwise
from typing import NamedTuple

import pyarrow.parquet as pq

from nextbuy.settings import Settings
from nextbuy.versioned_table import Manifest, require

GAP_DAYS = 90
"""Newest days of a log in which a gap is looked for: what monitoring compares lies in them."""
FEW = 0.001
"""Share of the log's events that are strays when they stand alone beyond a gap."""
ONE_DAY = timedelta(days=1)


class Gap(NamedTuple):
    """Days without any event, between two with events."""

    first: date
    last: date
    after: int
    """Events that come after it."""
    before: int
    """Events that come before it."""

    @property
    def days(self) -> int:
        """How many they are."""
        return (self.last - self.first).days + 1

    @property
    def remedy(self) -> str:
        """What to do about it."""
        if self.after < FEW * self.before:
            return (
                "If those are strays, such as a test event of today in a log of the past, publish "
                "the log without them: nextbuy ingest LOG --source NAME --replace. If the feed "
                "stood still, ingest what is missing."
            )
        return "Ingest those days: nextbuy ingest LOG --source NAME"

    def __str__(self) -> str:
        return f"from {self.first} to {self.last} ({self.days} day{'s' * (self.days > 1)})"


def longest_gap(settings: Settings) -> Gap | None:
    """The longest gap that ended in the newest `GAP_DAYS` days of the log; None without one.

    Real logs hold a few events from long before: a gap after them is none.

    Raises:
        NextbuyError: nothing is published.
    """
    published = require(settings.events, "nextbuy ingest LOG --source NAME")
    days = [date.fromisoformat(day) for day in sorted(published.days)]
    gaps = [
        (before, after)
        for before, after in pairwise(days)
        if after - before > ONE_DAY and days[-1] - after < GAP_DAYS * ONE_DAY
    ]
    counted = []
    for before, after in gaps:
        n_before = _events(settings, published, until=before)
        if n_before >= FEW * published.rows:
            n_after = published.rows - n_before
            counted.append(Gap(before + ONE_DAY, after - ONE_DAY, n_after, n_before))
    return max(counted, key=lambda gap: gap.days, default=None)


def _events(settings: Settings, published: Manifest, until: date) -> int:
    folders = (settings.events / f"day={day}" for day in published.days if day <= str(until))
    return sum(pq.read_metadata(file).num_rows for f in folders for file in f.glob("*.parquet"))
