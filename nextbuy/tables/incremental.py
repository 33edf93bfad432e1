"""A table's next version from its last one: what can have changed is computed, the rest is kept.

Three facts carry this. A row stamped before an event knows nothing of it (the leakage test proves
that), so nothing changes before the earliest changed event, except for a session that it extends.
A shopper's rows depend on the shopper's own events and on those of visitors that a log-in links
to them, so the rows of others stay, unless a link of theirs came or went. And a table of midnights
needs, for the days ahead, the events within the longest window and what its carried features were
before.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import duckdb

from nextbuy.settings import Settings
from nextbuy.shop import LabelConfig, SessionConfig, shop_settings
from nextbuy.shop_clock import ShopClock, shop_clock
from nextbuy.sql import read_parquet
from nextbuy.tables.identity import find_links, linkable_session_events, linked_users_sql
from nextbuy.tables.sessions import session_event_columns
from nextbuy.times import DAY, MINUTE, to_datetime
from nextbuy.versioned_table import Manifest, files, read_days, version_of


def iso_day(us: int) -> str:
    """The day (UTC) of a moment in microseconds.

    >>> iso_day(86_400_000_000)
    '1970-01-02'
    """
    return to_datetime(us).date().isoformat()


def differing(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Days whose content is not the same: those of the one, those of the other."""
    return (
        [day for day, digest in before.items() if after.get(day) != digest],
        [day for day, digest in after.items() if before.get(day) != digest],
    )


def only_in_one(one: str, other: str) -> str:
    """The rows of two DuckDB relations that are not in both, equally often.

    One aggregation: `EXCEPT ALL` in both directions numbers and joins every row twice.
    """
    return (
        f"(SELECT * EXCLUDE side FROM (SELECT *, 1 AS side FROM {one} "
        f"UNION ALL SELECT *, -1 AS side FROM {other}) GROUP BY ALL HAVING sum(side) <> 0)"
    )


class ChangedUsers(NamedTuple):
    """Shoppers with an event that only one of two versions has."""

    users: str
    """Table (user_id, event_us, moment_us): each shopper with the earliest of these moments."""
    first_us: int | None
    """Earliest such event; None if the versions are equal."""


def find_changed(
    connection: duckdb.DuckDBPyConnection, before: str, after: str, moment: str = "event_us"
) -> ChangedUsers:
    """Compare two relations of events; the next call on this connection replaces the table.

    `moment` is the column that the table gives as `moment_us`.
    """
    connection.execute(
        "CREATE OR REPLACE TABLE changed_users AS "
        f"SELECT user_id, min(event_us) AS event_us, min({moment}) AS moment_us "
        f"FROM {only_in_one(before, after)} GROUP BY user_id"
    )
    ((first_us,),) = connection.execute("SELECT min(event_us) FROM changed_users").fetchall()
    return ChangedUsers("changed_users", first_us)


@dataclass(frozen=True)
class SessionChange:
    """How sessions differ from those a table was made from."""

    folder: Path
    """The version of the sessions that the table was made from."""
    removed_days: tuple[str, ...]
    """Its days that the sessions no longer have with this content."""
    added_days: tuple[str, ...]
    """Days that it did not have with this content."""
    changed: ChangedUsers
    """Shoppers with a changed session event; `moment_us` is the start of its session."""
    old_newest_us: int
    new_newest_us: int
    gap_us: int
    clock: ShopClock

    @property
    def rows_from_us(self) -> int:
        """A session that ended up to a gap before a changed event may have ended later now."""
        first_us = self.changed.first_us
        first_us = self.new_newest_us + DAY if first_us is None else first_us
        return (first_us - self.gap_us) // DAY * DAY

    @property
    def midnights_from_us(self) -> int:
        """The beginning (UTC) of the day with the first midnight whose rows can have changed."""
        newest = min(self.old_newest_us, self.new_newest_us)
        first_us = self.changed.first_us
        since_us = min(newest, newest if first_us is None else first_us)
        return self.clock.next_midnight(since_us) // DAY * DAY


def session_change(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    sessions: Manifest,
    made_from: Mapping[str, str],
) -> SessionChange | None:
    """Compare the sessions with those of the days `made_from`; None if that version is gone."""
    version = version_of(settings.sessions, made_from)
    if version is None or not version[1].days:
        return None
    folder, earlier = version
    removed, added = differing(earlier.days, sessions.days)
    columns = (
        "(SELECT *, epoch_us(event_time) AS event_us, epoch_us(session_start) AS start_us FROM {})"
    )
    changed = find_changed(
        connection,
        columns.format(read_days(folder, removed)),
        columns.format(read_days(settings.sessions, added)),
        "start_us",
    )
    return SessionChange(
        folder,
        tuple(removed),
        tuple(added),
        changed,
        earlier.info["newest_us"],
        sessions.info["newest_us"],
        sessions.info["sessions"]["gap_minutes"] * MINUTE,
        shop_clock(shop_settings(settings).time_zone),
    )


class AffectedUsers(NamedTuple):
    """Shoppers whose features can have changed; no other shopper matters to them."""

    users: str
    """Table (user_id)."""
    events: str
    """Table of all their session events, in the shape of `SESSION_EVENTS`."""


def find_affected(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    sessions: Manifest,
    change: SessionChange,
    also: str = "",
) -> AffectedUsers:
    """The changed shoppers, those of the table `also` and all linked ones.

    The next call replaces both tables.
    """
    shared = sessions.days.keys() - set(change.added_days)
    versions = {
        "both": read_days(settings.sessions, shared),
        "old": read_days(change.folder, change.removed_days),
        "new": read_days(settings.sessions, change.added_days),
    }
    has_logins = "login" in sessions.info["provides"]
    max_shoppers = SessionConfig(**sessions.info["sessions"]).max_shoppers
    links = find_links(connection, versions if has_logins else {}, max_shoppers)
    # Old links and new ones: this reaches everybody who gained or lost a past. Who made a shop
    # session crowded is linked to none of those whose link ended.
    start = (
        f"SELECT 0, user_id FROM {change.changed.users} "
        f"UNION SELECT 0, user_id FROM {links.changed}"
    )
    if also:
        start += f" UNION SELECT 0, user_id FROM {also}"
    connection.execute(
        "CREATE OR REPLACE TABLE affected_users AS "
        f"SELECT user_id FROM ({linked_users_sql(start, links.linked)})"
    )
    affected = f"{read_parquet(files(settings.sessions))} SEMI JOIN affected_users USING (user_id)"
    connection.execute(
        "CREATE OR REPLACE TABLE affected_events AS "
        f"{linkable_session_events(f'FROM {affected}', links.crowded)}"
    )
    return AffectedUsers("affected_users", "affected_events")


class AffectedLabels(NamedTuple):
    """The labels that can have changed."""

    users: str
    """Table (user_id)."""
    from_us: int
    """A midnight: no older row of these users has changed."""
    events: str
    """Query for the session events that these rows depend on, in the shape of `SESSION_EVENTS`."""


def find_affected_labels(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    sessions: Manifest,
    change: SessionChange,
    maturing: str,
    config: LabelConfig,
) -> AffectedLabels:
    """The labels of changed and linked shoppers, and those that time alone has made known.

    Args:
        connection: runs it; the tables made here are replaced by the next call.
        settings: where things are.
        sessions: as published.
        change: how they differ from those that the published labels were made from.
        maturing: query (user_id, event_us) for rows that time alone has made known.
        config: the horizon.
    """
    connection.execute(f"CREATE OR REPLACE TABLE maturing AS {maturing}")
    changed, has_logins = change.changed.users, "login" in sessions.info["provides"]
    if has_logins:
        users, events = find_affected(connection, settings, sessions, change, also="maturing")
    else:
        users = "affected_users"
        connection.execute(
            f"CREATE OR REPLACE TABLE {users} AS "
            f"SELECT user_id FROM {changed} UNION SELECT user_id FROM maturing"
        )
    # A label looks one horizon ahead, at sessions that start by then: no older label changes.
    moments = f"SELECT moment_us FROM {changed}"
    if has_logins:
        # A visitor's session that goes on in a changed one was not over a gap before.
        moments += (
            f" UNION ALL SELECT session_start_us FROM {events} WHERE event_us >= "
            f"(SELECT min(moment_us) - {change.gap_us} FROM {changed})"
        )
    ((first_us,),) = connection.execute(
        "SELECT min(moment_us) FROM (SELECT event_us AS moment_us FROM maturing "
        f"UNION ALL SELECT moment_us - {config.horizon_us} FROM ({moments}))"
    ).fetchall()
    from_us = (change.new_newest_us if first_us is None else first_us) // DAY * DAY
    if has_logins:  # all events: a link may be older
        return AffectedLabels(users, from_us, f"FROM {events}")
    days = [day for day in sessions.days if day >= iso_day(from_us)]
    # A session that ends after that may have begun earlier.
    ((start_us,),) = connection.execute(
        f"SELECT coalesce(min(epoch_us(session_start)), {from_us}) "
        f"FROM {read_days(settings.sessions, days)} SEMI JOIN {users} USING (user_id)"
    ).fetchall()
    days = [day for day in sessions.days if day >= iso_day(start_us)]
    return AffectedLabels(
        users,
        from_us,
        f"SELECT {session_event_columns()} FROM {read_days(settings.sessions, days)} "
        f"SEMI JOIN {users} USING (user_id) WHERE epoch_us(session_start) >= {start_us}",
    )
