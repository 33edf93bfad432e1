"""Whose features live events may change, and their rows, by the definitions of the batch build.

The SQL that builds the tables is prepared once and run over the events of the affected shoppers.
No feature depends on later events, so a value with an earlier timestamp than an event is not
changed by it, and only rows from the first new event on are computed.

The work is bounded whatever shoppers share. A shop session counts until too many have used its id,
by the rule of the batch build (`nextbuy.features.history.crowded_sessions`): it links few, and one
that a crowd shares costs an event no more than one of its own. Chains of shop sessions are followed
up to a limit.
"""

from collections.abc import Collection, Mapping
from typing import NamedTuple

import duckdb
import ibis
import pyarrow as pa

from nextbuy.events import COMPUTED_SCHEMA
from nextbuy.features import FeatureTable, supported_tables
from nextbuy.live.event_store import EventRow, LiveStore
from nextbuy.settings import Settings
from nextbuy.shop import SessionConfig, ShopSettings, published_settings, shop_settings
from nextbuy.shop_clock import UTC_CLOCK, ShopClock
from nextbuy.tables.feature_sql import definition_clock, feature_rows
from nextbuy.tables.sessions import EVENTS, sessionize
from nextbuy.times import END_OF_TIME_US
from nextbuy.versioned_table import manifest

DAYS_AHEAD = 20 * 365
"""How far a live event may lie after the published ones for its hour to be right."""


class Group(NamedTuple):
    """Shoppers whom log-ins may link, or one who is linked to nobody."""

    users: list[str]
    since_us: int
    """The features of all of them may change from this moment on."""


class Affected(NamedTuple):
    """Whose features live events may change."""

    groups: list[Group]
    has_new_crowd: bool
    """Whether a shop session may have become crowded at another moment than before: events that
    were read earlier name it still, or no more."""
    too_many: set[str]
    """Shoppers who are linked to more others than are followed."""


def affected_by(
    store: LiveStore, since: Mapping[str, int], max_shoppers: int, max_linked: int
) -> Affected:
    """Everybody whose features the events of some shoppers may change.

    Args:
        store: has the events already.
        since: shopper -> microseconds since 1970 of the earliest such event.
        max_shoppers: of a shop session (`SessionConfig`).
        max_linked: shoppers of a group.
    """
    roots, visits = dict(since), list(store.visits_with_login(since, max_shoppers))
    new: dict[str, list[int]] = {}
    for visit in visits:
        if visit.crowded_us is not None and since[visit.user] <= visit.first_us <= visit.crowded_us:
            new.setdefault(visit.session, []).append(visit.first_us)
    for session, firsts in new.items():
        # As many as these visits are may no longer be of those that the session links.
        for user in store.first_users(session, max_shoppers + 1 + len(firsts)):
            roots[user] = min(min(firsts), roots.get(user, END_OF_TIME_US))
    shares = {visit.user for visit in visits if visit.has_others}.union(roots.keys() - since.keys())
    groups: list[Group] = []
    too_many: set[str] = set()
    seen: set[str] = set()
    for root in roots:
        if root in seen:
            continue
        users = [root]
        if root in shares:
            users = store.linked_users(root, max_shoppers, max_linked + 1)
        if len(users) > max_linked:
            too_many.add(root)
            continue
        seen.update(users)
        groups.append(Group(users, min(roots[user] for user in users if user in roots)))
    return Affected(groups, bool(new), too_many)


def linkable_rows(
    store: LiveStore, rows: Collection[EventRow], max_shoppers: int
) -> list[EventRow]:
    """Events without the shop sessions that are crowded, as `history.linkable` gives them."""
    sessions = {row.source_session_id for row in rows if row.source_session_id is not None}
    since = store.crowded_since(sessions, max_shoppers)
    if not since:
        return list(rows)
    return [
        row._replace(source_session_id=None)
        if row.event_us >= since.get(row.source_session_id or "", END_OF_TIME_US)
        else row
        for row in rows
    ]


def live_tables(settings: Settings) -> tuple[FeatureTable, ...]:
    """The feature tables that change with a shopper's events, as far as the log supports them.

    Items and categories are as of each midnight, so no event of the day changes them.
    """
    sessions = manifest(settings.sessions)
    provides = sessions.info["provides"] if sessions else None
    supported = supported_tables(provides, live_settings(settings).sessions.gap_us)
    return tuple(table for table in supported if "user_id" in table.keys)


def live_settings(settings: Settings) -> ShopSettings:
    """What the published tables were built with; where there are none, the shop's settings."""
    return published_settings(settings) or shop_settings(settings)


def live_clock(settings: Settings) -> ShopClock:
    """The shop's clock for the published events, and for those of the time to come."""
    zone = live_settings(settings).time_zone
    return definition_clock(zone, manifest(settings.sessions), days_ahead=DAYS_AHEAD)


class LiveFeatures:
    """Runs the definitions over the events in its cache.

    The cache holds all events of a shopper or none, and up to `max_events` in all, so that only
    the new events of returning shoppers need to be loaded.
    """

    def __init__(
        self,
        tables: Collection[FeatureTable],
        config: SessionConfig,
        max_events: int = 1_000_000,
        clock: ShopClock = UTC_CLOCK,
    ) -> None:
        self.max_shoppers = config.max_shoppers
        """Of a shop session: the events that are cached name no session with more."""
        self._made_of = tables, config, max_events, clock
        self._max_events = max_events
        self._connection = duckdb.connect()
        for setting in ("TimeZone = 'UTC'", "threads = 1", "enable_progress_bar = false"):
            self._connection.execute(f"SET {setting}")
        self._connection.register("incoming", COMPUTED_SCHEMA.empty_table())
        for name in ("cached", "events"):
            self._connection.execute(f"CREATE TABLE {name} AS FROM incoming")
        self._connection.unregister("incoming")
        self._connection.execute("CREATE TABLE affected (user_id VARCHAR, since_us BIGINT)")
        sessions = ibis.to_sql(sessionize(EVENTS, config), dialect="duckdb")
        self._connection.execute(
            f"CREATE TABLE session_events AS SELECT * FROM ({sessions}) LIMIT 0"
        )
        self._connection.execute(f"PREPARE sessionize AS INSERT INTO session_events {sessions}")
        self._statements = {table.name: f"rows_of_{table.name}" for table in tables}
        for table in tables:
            rows = feature_rows(table, END_OF_TIME_US, clock=clock)
            self._connection.execute(
                f"PREPARE {self._statements[table.name]} AS SELECT built.* FROM ({rows}) AS built "
                "JOIN affected USING (user_id) WHERE epoch_us(event_timestamp) >= since_us "
                f"QUALIFY row_number() OVER (PARTITION BY {', '.join(table.keys)} "
                f"ORDER BY event_timestamp DESC) = 1 ORDER BY {', '.join(table.keys)}"
            )
        self.cached: dict[str, int] = {}
        """Shoppers whose events are in the cache -> how many events that is."""

    def emptied(self) -> "LiveFeatures":
        """The same with an empty cache, whatever state an error left this one in."""
        try:
            self.clear()
        except duckdb.Error:  # after some errors, its connection refuses everything
            return LiveFeatures(*self._made_of)
        return self

    def clear(self) -> None:
        """Empty the cache."""
        self._connection.execute("DELETE FROM cached")
        self.cached.clear()

    def make_room(self) -> None:
        """Empty the cache when it has more than `max_events` events."""
        if sum(self.cached.values()) > self._max_events:
            self.clear()

    def cache(self, users: Collection[str], events: pa.Table) -> None:
        """Add events: all events of `users`, or new ones of shoppers who are in the cache."""
        self._insert("cached", events)
        self.cached.update(dict.fromkeys(users, 0))
        for user in events["user_id"].to_pylist():
            self.cached[user] += 1

    def rows(self, since: Mapping[str, int]) -> dict[str, pa.Table]:
        """View -> the latest row of each key that an event from `since` on may have changed.

        Args:
            since: shopper -> microseconds since 1970. The shopper and all linked users are in
                the cache.
        """
        for table in ("events", "session_events", "affected"):
            self._connection.execute(f"DELETE FROM {table}")
        users, moments = pa.array(since.keys(), pa.string()), pa.array(since.values(), pa.int64())
        self._insert("affected", pa.table({"user_id": users, "since_us": moments}))
        self._connection.execute(
            "INSERT INTO events SELECT cached.* FROM cached SEMI JOIN affected USING (user_id)"
        )
        self._connection.execute("EXECUTE sessionize").fetchall()
        return {
            name: self._connection.sql(f"EXECUTE {statement}").to_arrow_table()
            for name, statement in self._statements.items()
        }

    def _insert(self, table: str, rows: pa.Table) -> None:
        self._connection.register("incoming", rows)
        self._connection.execute(f"INSERT INTO {table} FROM incoming")
        self._connection.unregister("incoming")
