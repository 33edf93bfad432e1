"""Feature rows of a few shoppers, by the definitions of the batch build and no others.

The SQL that builds the tables is compiled once and run over the touched shoppers' own events. A
value stamped before an event does not depend on it (no feature knows the future), so only rows
from the first new event on are given.
"""

from collections.abc import Collection, Mapping

import duckdb
import ibis
import pyarrow as pa

from nextbuy.events import COMPUTED_SCHEMA
from nextbuy.features import TABLES, FeatureTable
from nextbuy.settings import Settings
from nextbuy.tables.build import feature_rows, feature_tables
from nextbuy.tables.sessions import EVENTS, SessionConfig, sessionize
from nextbuy.times import END_OF_TIME_US
from nextbuy.versioned_table import manifest


def live_tables(settings: Settings) -> tuple[FeatureTable, ...]:
    """The feature tables that move with a shopper's events, as far as the log supports them.

    Items and categories are as of each midnight: no event of the day moves them.
    """
    sessions = manifest(settings.sessions)
    given = TABLES if sessions is None else feature_tables(sessions)
    return tuple(table for table in given if "user_id" in table.keys)


def session_config(settings: Settings) -> SessionConfig:
    """What the published sessions were cut with."""
    sessions = manifest(settings.sessions)
    return SessionConfig(**sessions.info["sessions"]) if sessions else SessionConfig()


class LiveFeatures:
    """Runs the definitions over the events that it holds.

    Events of shoppers that come back are kept, up to `most_events`, so that only new ones need to
    be loaded.
    """

    def __init__(
        self, tables: Collection[FeatureTable], config: SessionConfig, most_events: int = 1_000_000
    ) -> None:
        self._most = most_events
        self._engine = duckdb.connect()
        for setting in ("TimeZone = 'UTC'", "threads = 1", "enable_progress_bar = false"):
            self._engine.execute(f"SET {setting}")
        self._engine.register("given", COMPUTED_SCHEMA.empty_table())
        for name in ("held", "events"):
            self._engine.execute(f"CREATE TABLE {name} AS FROM given")
        self._engine.unregister("given")
        self._engine.execute("CREATE TABLE touched (user_id VARCHAR, since_us BIGINT)")
        cut = ibis.to_sql(sessionize(EVENTS, config), dialect="duckdb")
        self._engine.execute(f"CREATE TABLE session_events AS SELECT * FROM ({cut}) LIMIT 0")
        self._engine.execute(f"PREPARE cut AS INSERT INTO session_events {cut}")
        self._names = {table.name: f"rows_of_{table.name}" for table in tables}
        for table in tables:
            rows = feature_rows(table, END_OF_TIME_US)
            self._engine.execute(
                f"PREPARE {self._names[table.name]} AS SELECT made.* FROM ({rows}) AS made "
                "JOIN touched USING (user_id) WHERE epoch_us(event_timestamp) >= since_us "
                f"QUALIFY row_number() OVER (PARTITION BY {', '.join(table.keys)} "
                f"ORDER BY event_timestamp DESC) = 1 ORDER BY {', '.join(table.keys)}"
            )
        self.held: dict[str, int] = {}
        """Shoppers whose events are here, and how many they are."""

    def drop(self) -> None:
        """Hold nothing any more."""
        self._engine.execute("DELETE FROM held")
        self.held.clear()

    def make_room(self) -> None:
        """Drop what is held when it is more than `most_events`."""
        if sum(self.held.values()) > self._most:
            self.drop()

    def hold(self, users: Collection[str], events: pa.Table) -> None:
        """Take in events: all there are of `users`, or new ones of shoppers held already."""
        self._insert("held", events)
        self.held.update(dict.fromkeys(users, 0))
        for user in events["user_id"].to_pylist():
            self.held[user] += 1

    def rows(self, since: Mapping[str, int]) -> dict[str, pa.Table]:
        """View -> the latest row of each key that an event from `since` on may have changed.

        Args:
            since: shopper (held, as everybody in their circle) -> microseconds since 1970.
        """
        for table in ("events", "session_events", "touched"):
            self._engine.execute(f"DELETE FROM {table}")
        users, moments = pa.array(since.keys(), pa.string()), pa.array(since.values(), pa.int64())
        self._insert("touched", pa.table({"user_id": users, "since_us": moments}))
        self._engine.execute(
            "INSERT INTO events SELECT held.* FROM held SEMI JOIN touched USING (user_id)"
        )
        self._engine.execute("EXECUTE cut").fetchall()
        return {
            name: self._engine.sql(f"EXECUTE {statement}").to_arrow_table()
            for name, statement in self._names.items()
        }

    def _insert(self, table: str, rows: pa.Table) -> None:
        self._engine.register("given", rows)
        self._engine.execute(f"INSERT INTO {table} FROM given")
        self._engine.unregister("given")
