"""The shop's clock: which hour, weekday and day it is there, and when a day ends, in UTC moments.

A zone is a list of offsets, each from a moment on, read from Python's `zoneinfo`. Every engine
(DuckDB, Spark, the live worker, Python) gets the same list as integers, so that no two databases of
time zones can disagree.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from itertools import pairwise
from typing import NamedTuple
from zoneinfo import ZoneInfo

from nextbuy.times import DAY, HOUR, MINUTE, SECOND, to_us

FIRST = datetime(1994, 12, 1, tzinfo=UTC)
"""No event is older, and no window of one reaches back further."""
LAST = datetime(2060, 1, 1, tzinfo=UTC)
"""From here on the offset is taken to stay what it is."""


MARGIN_US = 60 * DAY
"""More than the longest window reaches from an event, in either direction."""


class Step(NamedTuple):
    """A value that holds from a moment, or a day, on; that of the first holds before it too."""

    start: int
    value: int


class Fold(NamedTuple):
    """A moment at which the clock goes back, so that an hour comes twice."""

    at_us: int
    back_us: int
    """By how much."""


class ShopClock(NamedTuple):
    """The clock of a zone. Moments are microseconds since 1970, UTC; days are counted from 1970.

    >>> berlin = shop_clock("Europe/Berlin")
    >>> day = berlin.day(to_us(datetime(2024, 3, 31, 12, tzinfo=UTC)))
    >>> (berlin.midnight(day + 1) - berlin.midnight(day)) // HOUR  # an hour is left out
    23
    """

    zone: str
    offsets: tuple[Step, ...]
    """Local time minus UTC in microseconds, by moment."""
    leads: tuple[Step, ...]
    """Midnight minus `midnight(day)` in microseconds, by day: how far the shop is ahead of UTC
    where its day begins."""

    def local_us(self, us: int) -> int:
        """What the clock shows, as microseconds since it showed the beginning of 1970."""
        return us + _at(self.offsets, us)

    def day(self, us: int) -> int:
        """The day that the clock shows."""
        return self.local_us(us) // DAY

    def hour(self, us: int) -> int:
        """The hour that the clock shows, 0 to 23."""
        return self.local_us(us) % DAY // HOUR

    def weekday(self, us: int) -> int:
        """The weekday that the clock shows; Monday is 0."""
        return (self.day(us) + 3) % 7  # 1970-01-01 was a Thursday

    def midnight(self, day: int) -> int:
        """The first moment after all those that the clock dates before this day.

        Where midnight is left out by the clock, or comes twice, this is still one moment, and no
        event of an earlier day comes after it.
        """
        return day * DAY - _at(self.leads, day)

    def next_midnight(self, us: int) -> int:
        """The first midnight after a moment."""
        day = self.day(us)
        return min(m for m in map(self.midnight, range(day - 1, day + 4)) if m > us)

    def clean_day(self, day: int) -> int:
        """The last day up to this one that no moment before its midnight belongs to."""
        while any(self.day(self.midnight(day) - n * MINUTE) >= day for n in range(1, 181)):
            day -= 1
        return day

    @property
    def folds(self) -> tuple[Fold, ...]:
        """When the clock goes back."""
        return tuple(Fold(at, old - new) for at, old, new in self._changes() if new < old)

    def utc_sql(self, local: str) -> str:
        """The moment of a time that the clock shows, in SQL; of two such moments the second.

        A time that the clock leaves out is taken to be counted on from before.
        """
        steps = [Step(0, self.offsets[0].value)]
        steps += [Step(at + new, new) for at, _, new in self._changes()]
        return f"({local} - {_case(steps, local)})"

    def repeated_sql(self, local: str) -> str:
        """How long before the second moment the first one is, in SQL; 0 where there is one."""
        return _spans([(at + new, at + old, old - new) for at, old, new in self._changes()], local)

    def skipped_sql(self, local: str) -> str:
        """How much the clock leaves out around a time that it never shows, in SQL; else 0."""
        return _spans([(at + old, at + new, new - old) for at, old, new in self._changes()], local)

    def _changes(self) -> list[tuple[int, int, int]]:
        """When the offset changes, the one before and the one after."""
        pairs = pairwise(self.offsets)
        return [(after.start, before.value, after.value) for before, after in pairs]

    def between(self, first_us: int, last_us: int) -> "ShopClock":
        """The same clock for the events of a time, and for the windows that they are in.

        A zone has a hundred changes of the offset, a log a few: definitions stay short.
        """
        first_us, last_us = first_us - MARGIN_US, last_us + MARGIN_US
        return self._replace(
            offsets=_within(self.offsets, first_us, last_us),
            leads=_within(self.leads, first_us // DAY, last_us // DAY),
        )

    def local_sql(self, us: str) -> str:
        """`local_us` in SQL, of an expression."""
        return f"({us} + {_case(self.offsets, us)})"


UTC_CLOCK = ShopClock("UTC", (Step(0, 0),), (Step(0, 0),))


@cache
def shop_clock(zone: str) -> ShopClock:
    """The clock of an IANA zone."""
    if zone == "UTC":
        return UTC_CLOCK
    offsets = tuple(_offsets(ZoneInfo(zone)))
    return ShopClock(zone, offsets, tuple(_leads(offsets)))


def _offsets(zone: ZoneInfo) -> Iterator[Step]:
    """Every change of the offset: found a day at a time, then to the second."""

    def offset(seconds: int) -> int:
        at = datetime.fromtimestamp(seconds, UTC).astimezone(zone).utcoffset()
        assert at is not None
        return round(at.total_seconds()) * SECOND

    before, day = to_us(FIRST) // SECOND, DAY // SECOND
    known = offset(before)
    yield Step(before * SECOND, known)
    while before * SECOND < to_us(LAST):
        after = before + day
        if offset(after) != known:
            low, high = before, after
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle) == known else (low, middle)
            known = offset(high)
            yield Step(high * SECOND, known)
        before = after


def _leads(offsets: Sequence[Step]) -> Iterator[Step]:
    known = None
    starts = [step.start for step in offsets]
    for day in range(to_us(FIRST) // DAY, to_us(LAST) // DAY + 1):
        lead = day * DAY - _midnight(offsets, starts, day)
        if lead != known:
            known = lead
            yield Step(day, lead)


def _midnight(offsets: Sequence[Step], starts: Sequence[int], day: int) -> int:
    """The end of all moments that the clock dates before `day`."""
    local = day * DAY
    first = max(0, bisect_right(starts, local - 2 * DAY) - 1)
    last = bisect_right(starts, local + 2 * DAY)
    ends = []
    for number in range(first, last):
        start, offset = offsets[number]
        end = starts[number + 1] if number + 1 < len(offsets) else local + 2 * DAY
        if start + offset < local:
            ends.append(min(end, local - offset))
    return max(ends, default=local - offsets[first].value)


def _within(steps: tuple[Step, ...], first: int, last: int) -> tuple[Step, ...]:
    since = max(0, bisect_right(steps, first, key=lambda step: step.start) - 1)
    return tuple(step for step in steps[since:] if step.start <= last) or steps[:1]


def _at(steps: Sequence[Step], moment: int) -> int:
    return steps[max(0, bisect_right(steps, moment, key=lambda step: step.start) - 1)].value


def _spans(spans: Sequence[tuple[int, int, int]], value: str) -> str:
    """The value of the span that a position is in, else 0; those that end early are left out."""
    steps = [Step(0, 0)]
    for start, end, inside in spans:
        if start < end:
            steps += [Step(start, inside), Step(end, 0)]
    return _case(steps, value)


def _case(steps: Sequence[Step], value: str) -> str:
    """The value of the step, by halving: a zone has a hundred."""
    if len(steps) == 1:
        return str(steps[0].value)
    half = len(steps) // 2
    before, after = _case(steps[:half], value), _case(steps[half:], value)
    return f"CASE WHEN {value} < {steps[half].start} THEN {before} ELSE {after} END"
