"""A share of the keys at a time: what computes a large table within the memory there is.

The keys of a table do not know of each other, but for shoppers and the visitors that a log-in
links to them: those go into one bucket together.
"""

from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Self

import duckdb

from nextbuy.features import FeatureTable
from nextbuy.settings import Settings
from nextbuy.tables.incremental import find_links, session_event_columns
from nextbuy.versioned_table import Manifest, read_days, workplace

BUCKET_EVENTS = 2_000_000
"""A table is computed for so many events' worth of keys at a time: its rows are wide, and windows
over spilled rows took more than half of a whole build."""


class Buckets:
    """Shows an connection the published sessions, one bucket of a table's keys at a time.

    They are parted once for all tables of shoppers, into files that go when the block ends.
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
    def _folder(self) -> Path:
        busy = f"Another run is building feature tables in {self._settings.data}"
        place = self._settings.data / "tmp" / "buckets"
        return self._open.enter_context(workplace(place, busy))

    def read(self, table: FeatureTable) -> int:
        """Let `session_events` show the bucket that the variable `bucket` names.

        Returns how many buckets there are, for the table's keys.

        Raises:
            NextbuyError: another run has parted sessions.
        """
        count = 1 + self._sessions.rows // BUCKET_EVENTS
        columns, rows = session_event_columns(), self._rows
        if count > 1:
            whose = "shopper" if "user_id" in table.keys else table.name
            folder = self._folder / whose
            if not folder.exists():
                keys = ", ".join(table.keys)
                if whose == "shopper":
                    self._find_circles()
                    keys = "coalesce(root, user_id)"
                    rows += " LEFT JOIN circles USING (user_id)"
                self._connection.execute(
                    f"COPY (SELECT {columns}, hash({keys}) % {count} AS bucket FROM {rows}) "
                    f"TO '{folder}' (FORMAT parquet, PARTITION_BY (bucket))"
                )
            columns = "* EXCLUDE bucket"
            rows = (
                f"read_parquet('{folder}/*/*.parquet', hive_partitioning = true, "
                "hive_types = {'bucket': BIGINT}) WHERE bucket = getvariable('bucket')"
            )
        self._connection.execute(
            f"CREATE OR REPLACE VIEW session_events AS SELECT {columns} FROM {rows}"
        )
        return count

    def _find_circles(self) -> None:
        """Leave in `circles` the shopper (`root`) that each linked visitor leads to in the end.

        A visitor is linked to one shopper, who logged in before the visitor ever did; so the way
        up has an end.
        """
        find_links(
            self._connection,
            {"new": self._rows} if "login" in self._sessions.info["provides"] else {},
        )
        self._connection.execute(
            """CREATE OR REPLACE TABLE circles AS
            WITH RECURSIVE up AS (
                SELECT visitor_id, user_id AS root FROM links
                UNION SELECT up.visitor_id, links.user_id
                FROM up JOIN links ON links.visitor_id = up.root)
            SELECT visitor_id AS user_id, root
            FROM up ANTI JOIN links ON links.visitor_id = up.root"""
        )
