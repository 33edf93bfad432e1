"""Sessions in partitions: what computes a large table within the memory there is.

The rows of different keys do not depend on each other, except those of shoppers and the visitors
that a log-in links to them: linked users are always in one partition.
"""

from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import duckdb

from nextbuy.features import FeatureTable
from nextbuy.settings import Settings
from nextbuy.shop import SessionConfig
from nextbuy.tables.identity import (
    Links,
    find_links,
    linkable_session_events,
    linked_users_sql,
)
from nextbuy.tables.sessions import session_event_columns
from nextbuy.versioned_table import Manifest, read_days, workplace

PARTITION_EVENTS = 2_000_000
"""A table is computed for so many events' worth of keys at a time: its rows are wide, and windows
over spilled rows took more than half of a whole build."""


class PartitionedEvents(NamedTuple):
    """Session events, one partition at a time."""

    events: str
    """Query in the shape of `SESSION_EVENTS`; of many partitions, the one that the DuckDB variable
    `partition` names."""
    n_partitions: int
    """They are numbered from 0."""


class Partitions:
    """The published sessions, partitioned by the keys of a table.

    They are partitioned once for all tables of shoppers, into files that are removed when the block
    ends.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, settings: Settings, sessions: Manifest
    ) -> None:
        self._connection, self._settings, self._sessions = connection, settings, sessions
        self._rows = read_days(settings.sessions, sessions.days)
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    @cached_property
    def _links(self) -> Links:
        info = self._sessions.info
        versions = {"new": self._rows} if "login" in info["provides"] else {}
        return find_links(
            self._connection, versions, SessionConfig(**info["sessions"]).max_shoppers
        )

    @cached_property
    def _folder(self) -> Path:
        busy = f"Another run is building feature tables in {self._settings.data}"
        folder = self._settings.data / "tmp" / "partitions"
        return self._open.enter_context(workplace(folder, busy))

    def events_for(self, table: FeatureTable) -> PartitionedEvents:
        """The session events by the table's keys.

        Raises:
            NextbuyError: another run has partitioned sessions.
        """
        count = 1 + self._sessions.rows // PARTITION_EVENTS
        of_shoppers = "user_id" in table.keys
        rows = f"SELECT {session_event_columns()} FROM {self._rows}"
        if of_shoppers:
            rows = linkable_session_events(f"FROM {self._rows}", self._links.crowded)
        if count == 1:
            return PartitionedEvents(rows, count)
        folder = self._folder / ("shopper" if of_shoppers else table.name)
        if not folder.exists():
            keys, rows = ", ".join(table.keys), f"({rows}) AS e"
            if of_shoppers:
                keys = "coalesce(root, user_id)"
                rows += f" LEFT JOIN {self._find_roots()} USING (user_id)"
            self._connection.execute(
                f"COPY (SELECT e.*, hash({keys}) % {count} AS partition FROM {rows}) "
                f"TO '{folder}' (FORMAT parquet, PARTITION_BY (partition))"
            )
        return PartitionedEvents(
            f"SELECT * EXCLUDE partition FROM read_parquet('{folder}/*/*.parquet', "
            "hive_partitioning = true, hive_types = {'partition': BIGINT}) "
            "WHERE partition = getvariable('partition')",
            count,
        )

    def _find_roots(self) -> str:
        """Table (root, user_id): every linked user with the shopper that the links lead to.

        A visitor is linked to one shopper, who logged in before the visitor ever did: linked users
        are a tree, and its root is the one who is nobody's visitor.
        """
        pairs = self._links.pairs
        roots = (
            "SELECT user_id, user_id FROM "
            f"(SELECT user_id FROM {pairs} EXCEPT SELECT visitor_id FROM {pairs})"
        )
        self._connection.execute(
            f"CREATE OR REPLACE TABLE roots AS {linked_users_sql(roots, self._links.linked)}"
        )
        return "roots"
