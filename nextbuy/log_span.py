"""Where a log ends and where it has holes: decided by the mass of its events, never by one of them.

A single event with a wrong clock must not be the end of a log: everything that counts from the end
(labels that mature, splits, freshness, the moment `newest`) would move with it. So days are judged,
by how many shoppers came, each day by what was usual just before it:

- A pause is long if it lasts more than three times as long as is usual between two days with
  events, and at least twenty visits would have come in it.
- After a long pause the log goes on once a tenth of a usual day's shoppers have come in a day, or
  as many as on a usual day have come in all, and at least three. The pause is then a hole.
- Events after a long pause that nothing of the kind follows are strays: the log ends before them.
  They are counted and named, and left out of sessions, labels and features until the log has
  reached them. A source can vouch for its events up to a moment (`limits.not_after`).

What is exact here is that the result depends on the events alone: not on the order or the pieces
in which they came.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from itertools import pairwise
from statistics import median, median_low
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from nextbuy.times import DAY, to_datetime

if TYPE_CHECKING:
    import duckdb

VOUCHED = "vouched_us"
"""In the manifest of events: up to when the source vouches for them, in microseconds since 1970."""
STRAY_REMEDY = (
    "They count in no session, label or feature until the log has reached them. A wrong clock? "
    "Correct it, or set limits.not_after in the source file to the true end and ingest the log "
    "again with --replace. If they are right, ingest what lies between, or set limits.not_after to "
    "a later moment: events up to it belong to the log."
)
RECENT_DAYS = 28
"""Days with events, before a pause, that say what is usual."""
LONG = 3
"""A long pause is longer than so many usual ones."""
MISSED_VISITS = 20
"""And so many visits would have come in it."""
FEW = 2
"""Pauses that say what is usual, at least."""
FEWEST_VISITS = 3
"""Fewer do not show that a log goes on."""
THIN = 10
"""Nor does a day with less than one in so many of a usual day's shoppers, unless others follow."""


class LogDay(NamedTuple):
    """A day (UTC) of a log that has events."""

    number: int
    """Days since 1970."""
    shoppers: int
    events: int
    first_us: int
    last_us: int


class Hole(NamedTuple):
    """A long pause within a log."""

    after_us: int
    """The last event before it."""
    before_us: int
    """The first event after it."""

    def __str__(self) -> str:
        start, end = (to_datetime(us) for us in self)
        return f"from {start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"


class LogSpan(NamedTuple):
    """What a log covers."""

    end_us: int
    """Time of its newest event that is no stray."""
    holes: tuple[Hole, ...]
    """In order."""
    strays: Mapping[str, int]
    """Day (ISO) -> its events, for the days after the end."""

    @property
    def end(self) -> datetime:
        """The end as a moment."""
        return to_datetime(self.end_us)

    @property
    def n_strays(self) -> int:
        """Events after the end."""
        return sum(self.strays.values())

    @property
    def info(self) -> dict[str, Any]:
        """For the manifest of a table that is made of these events; `from_info` reads it."""
        return {
            "newest_us": self.end_us,
            "holes": [list(hole) for hole in self.holes],
            "strays": dict(self.strays),
        }

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> Self:
        """What such a manifest says; those of older versions know neither holes nor strays."""
        holes = tuple(Hole(*hole) for hole in info.get("holes", ()))
        return cls(info["newest_us"], holes, info.get("strays", {}))


def read_span(
    connection: "duckdb.DuckDBPyConnection", events: str, vouched_us: int | None = None
) -> LogSpan:
    """The span of a DuckDB relation of canonical events.

    Events up to `vouched_us` are no strays.
    """
    rows = connection.execute(
        "SELECT number, count(*), sum(n)::BIGINT, min(first_us), max(last_us) FROM ("
        f"SELECT epoch_us(event_time) // {DAY} AS number, user_id, count(*) AS n, "
        "min(epoch_us(event_time)) AS first_us, max(epoch_us(event_time)) AS last_us "
        f"FROM {events} GROUP BY ALL) GROUP BY number ORDER BY number"
    ).fetchall()
    return log_span([LogDay(*row) for row in rows], vouched_us)


def explain_strays(
    connection: "duckdb.DuckDBPyConnection", events: str, vouched_us: int | None = None
) -> str:
    """Which of these events (as `read_span` takes them) are strays, and what to do; or nothing."""
    span = read_span(connection, events, vouched_us)
    if not span.strays:
        return ""
    (event_id, user_id, moment), *_ = connection.execute(
        f"SELECT event_id, user_id, epoch_us(event_time) FROM {events} "
        f"WHERE event_time > make_timestamptz({span.end_us}) ORDER BY event_time, event_id LIMIT 1"
    ).fetchall()
    pause = (moment - span.end_us) / DAY
    return (
        f"stray events: {span.n_strays:,} after the end of the log ({span.end:%Y-%m-%d %H:%M} UTC);"
        f" the first, {event_id} of shopper {user_id}, is of {to_datetime(moment):%Y-%m-%d %H:%M} "
        f"UTC, {pause:,.1f} days later. {STRAY_REMEDY}"
    )


def log_span(days: Sequence[LogDay], vouched_us: int | None = None) -> LogSpan:
    """The span of a log with these days, which are in order; without any it ends in 1970.

    >>> days = [LogDay(n, 50, 200, n * DAY, n * DAY + 9) for n in (0, 1, 2, 3, 40)]
    >>> log_span(days).holes[0].after_us == 3 * DAY + 9
    True
    >>> log_span([*days[:4], days[4]._replace(shoppers=1, events=2)]).strays
    {'1970-02-10': 2}
    """
    if not days:
        return LogSpan(0, (), {})
    log, holes = [days[0]], []
    every_pause = [after.number - before.number for before, after in pairwise(days)]
    # Of few pauses nobody knows whether they are usual.
    usual_pause = median_low(every_pause) if len(every_pause) >= FEW else 1
    at = 1
    while at < len(days):
        if not _is_long(log, usual_pause, log[-1], days[at]):
            log.append(days[at])
            at += 1
            continue
        following = [days[at]]
        for before, after in pairwise(days[at:]):
            if _is_long(log, usual_pause, before, after):
                break
            following.append(after)
        at += len(following)
        is_vouched = vouched_us is not None and following[0].first_us <= vouched_us
        if is_vouched or _goes_on(log, following):
            holes.append(Hole(log[-1].last_us, following[0].first_us))
            log += following
    last = log[-1]
    strays = {
        to_datetime(day.number * DAY).date().isoformat(): day.events
        for day in days
        if day.number > last.number
    }
    return LogSpan(last.last_us, tuple(holes), strays)


def wide_holes(holes: Iterable[Hole], horizon_us: int) -> list[Hole]:
    """The holes that make labels uncertain: those of a quarter of the horizon or more.

    A shopper who came back in a shorter one is the exception.
    """
    return [hole for hole in holes if 4 * (hole.before_us - hole.after_us) >= horizon_us]


def _is_long(log: Sequence[LogDay], usual_pause: int, before: LogDay, after: LogDay) -> bool:
    """Whether the pause between two days is longer than can be chance, by the log before it.

    `usual_pause` stands for that of a log that has just begun.
    """
    pauses = [b.number - a.number for a, b in pairwise(log[-RECENT_DAYS:])]
    is_young = len(pauses) < FEW
    usual_pause = usual_pause if is_young else median_low(pauses)
    pause = after.number - before.number
    # In a young log a single day has to say how many visits are missed.
    missed = _usual_shoppers(log) * (1 if is_young else pause / usual_pause)
    return pause > LONG * usual_pause and missed >= MISSED_VISITS


def _goes_on(log: Sequence[LogDay], following: Sequence[LogDay]) -> bool:
    """Whether these days, after a long pause, are the log's and no strays."""
    usual, visits = _usual_shoppers(log), sum(day.shoppers for day in following)
    busiest = max(day.shoppers for day in following)
    return visits >= FEWEST_VISITS and (busiest * THIN >= usual or visits >= usual)


def _usual_shoppers(log: Sequence[LogDay]) -> float:
    return median(day.shoppers for day in log[-RECENT_DAYS:])
