"""Events that could not be worked off: put where they hold up nobody, with their error.

They stay in the live store, in a table of their own: their shopper's features go on without them,
and `nextbuy merge-live` does not publish them. `nextbuy live retry` gives them another try, as if
they arrived now; `nextbuy live discard` removes them.
"""

import sqlite3
from collections.abc import Collection, Sequence
from typing import NamedTuple

import duckdb
import redis

from nextbuy.errors import NextbuyError
from nextbuy.events import why_invalid
from nextbuy.live.event_store import COLUMNS, EventRow, LiveStore, now_us

MAX_ERROR = 500
"""Characters of an error that are kept."""
OF_ONE_EVENT = ("WRONGTYPE", "Protocol error", "string exceeds maximum")
"""What Redis says of a single key or value; everything else that it says concerns all."""


class SetApart(NamedTuple):
    """An event that could not be worked off."""

    event: EventRow
    error: str
    """Its type and message."""
    set_apart_us: int
    """When, in microseconds since 1970."""


def is_outage(error: BaseException | None) -> bool:
    """Whether something was away or full that every event needs; else the event is at fault.

    Every error is of the event but those known not to be: what is taken for an outage is tried
    again for ever, and holds up everybody.
    """
    while isinstance(error, NextbuyError) and error.__cause__ is not None:
        error = error.__cause__
    match error:
        case redis.DataError():
            return False
        case redis.ResponseError():
            return not any(text in str(error) for text in OF_ONE_EVENT)
        case redis.RedisError() | OSError() | MemoryError() | NextbuyError():
            return True
        case sqlite3.OperationalError() | duckdb.IOException() | duckdb.OutOfMemoryException():
            return True
    return False


def describe(error: Exception) -> str:
    """An error as it is kept with the event."""
    return f"{type(error).__name__}: {error}".strip(": ")


def set_apart(store: LiveStore, errors: dict[str, str]) -> None:
    """Put events apart.

    Args:
        store: has them.
        errors: event id -> why.
    """
    columns = ", ".join(COLUMNS)
    with store.transaction():
        store.sql.executemany(
            f"INSERT OR REPLACE INTO set_apart SELECT {columns}, seq, received_us, ?, ? "
            "FROM events WHERE event_id = ?",
            ((error[:MAX_ERROR], now_us(), event_id) for event_id, error in errors.items()),
        )
        store.remove(errors)


def set_shopper_apart(store: LiveStore, user: str, error: str) -> None:
    """Note that a shopper's features could not be computed again after a publication."""
    with store.transaction():
        store.sql.execute("UPDATE stale SET error = ? WHERE user_id = ?", [error[:MAX_ERROR], user])


def events_apart(store: LiveStore, limit: int = 1_000) -> list[SetApart]:
    """The events set apart, the latest first."""
    rows = store.sql.execute(
        f"SELECT {', '.join(COLUMNS)}, error, set_apart_us FROM set_apart "
        "ORDER BY set_apart_us DESC, event_id LIMIT ?",
        [limit],
    )
    return [SetApart(EventRow._make(row[:-2]), *row[-2:]) for row in rows]


def shoppers_apart(store: LiveStore) -> dict[str, str]:
    """Shopper -> why their features could not be computed after a publication."""
    query = "SELECT user_id, error FROM stale WHERE error IS NOT NULL ORDER BY user_id"
    return dict(store.sql.execute(query).fetchall())


def retry(store: LiveStore, event_ids: Collection[str] = ()) -> int:
    """Let events arrive again, and shoppers be computed again; returns the number of events.

    Args:
        store: the live store.
        event_ids: which; empty for all, and for all shoppers.

    Raises:
        NextbuyError: an id is not set apart.
    """
    chosen = _chosen(store, event_ids)
    again = [each.event for each in chosen if why_invalid(each.event._asdict()) is None]
    with store.transaction():
        if not event_ids:
            store.sql.execute("UPDATE stale SET error = NULL")
        if again:
            ids = ((row.event_id,) for row in again)
            store.sql.executemany("DELETE FROM set_apart WHERE event_id = ?", ids)
            store.insert(again, now_us())
    return len(again)


def discard(store: LiveStore, event_ids: Collection[str] = ()) -> int:
    """Remove events that were set apart; returns their number.

    Args:
        store: the live store.
        event_ids: which; empty for all.

    Raises:
        NextbuyError: an id is not set apart.
    """
    chosen = _chosen(store, event_ids)
    with store.transaction():
        store.sql.executemany(
            "DELETE FROM set_apart WHERE event_id = ?", ((each.event.event_id,) for each in chosen)
        )
    return len(chosen)


def _chosen(store: LiveStore, event_ids: Collection[str]) -> Sequence[SetApart]:
    apart = events_apart(store, limit=-1)
    if not event_ids:
        return apart
    missing = set(event_ids) - {each.event.event_id for each in apart}
    if missing:
        raise NextbuyError(
            f"No event {', '.join(sorted(map(repr, missing)))} is set apart. "
            "Those that are: nextbuy live status"
        )
    return [each for each in apart if each.event.event_id in event_ids]
