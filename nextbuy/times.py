"""Moments and durations. Time is UTC; as a number it is whole microseconds since 1970."""

from datetime import UTC, datetime, timedelta

SECOND = 1_000_000
"""Microseconds; so are the longer units."""
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime.fromtimestamp(0, UTC)

END_OF_TIME_US = 2**60
"""Later than any event, with room to add durations: as a limit, it leaves nothing out."""
NOT_SEEN_US = -(2**63)
"""The moment of a row that is not there; NumPy reads the same bits as NaT."""


def utc(moment: datetime) -> datetime:
    """The same moment in UTC; one without a zone is taken to be in UTC already.

    >>> utc(datetime(2024, 1, 1))
    datetime.datetime(2024, 1, 1, 0, 0, tzinfo=datetime.timezone.utc)
    """
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def to_us(moment: datetime) -> int:
    """Microseconds since 1970 of a moment, exactly.

    >>> to_us(datetime(1970, 1, 2))
    86400000000
    """
    return (utc(moment) - EPOCH) // MICROSECOND


def to_datetime(us: int) -> datetime:
    """The moment so many microseconds after 1970, exactly.

    >>> to_datetime(1_500_000)
    datetime.datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=datetime.timezone.utc)
    """
    return EPOCH + us * MICROSECOND


def age_in_words(hours: float) -> str:
    """A length of time in hours, in days from two of them on.

    >>> age_in_words(30.5), age_in_words(36), age_in_words(78_748.8)
    ('30.5 hours', '36 hours', '3,281 days')
    """
    if abs(hours) < 48:
        return f"{round(hours, 1):g} hours"
    days = hours / 24
    return f"{days:,.0f} days" if abs(days) >= 10 else f"{round(days, 1):g} days"
