"""Writes the next version of a table and stages it; publishing is the caller's step.

with stage_sessions(settings, config) as staged:
    check(staged)
    staged.publish()
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from nextbuy.tables.incremental import iso_day, only_in_one
from nextbuy.versioned_table import (
    Manifest,
    Version,
    fingerprint,
    manifest,
    read_days,
    staged_version,
)

SPAN_ROWS = 1_000_000
"""Rows of a large table that are sorted and written at a time."""


class PublishedTable(NamedTuple):
    """What became of a table."""

    name: str
    rows: int
    is_new: bool
    """Whether it was written, or was up to date already."""


@dataclass(frozen=True)
class StagedTable:
    """A table before it is published: its next version, or none if it is up to date."""

    path: Path
    """The table, as published before."""
    version: Version | None

    @property
    def new_files(self) -> list[Path]:
        """The files of the days that are new, in order; none if the table is up to date."""
        return self.version.written() if self.version else []

    def publish(self) -> PublishedTable:
        """Let the table be the staged version; one that is up to date stays as it is."""
        published = self.version.publish() if self.version else manifest(self.path)
        assert published is not None
        return PublishedTable(self.path.name, published.rows, self.version is not None)


@dataclass(frozen=True)
class TableWriter:
    """How a table is written, and what it is made from."""

    path: Path
    source: Manifest
    definition: str
    """Fingerprint of how the rows are made."""
    time_column: str
    """Gives a row's day."""
    order_by: tuple[str, ...]
    """A total order of a day's rows."""
    info: dict[str, Any] = field(default_factory=dict)
    """For the manifest: what later stages need to know."""

    @contextmanager
    def stage(self) -> Iterator[StagedTable]:
        """The next version to write, unless nothing that the table is made from has changed.

        What is not published by the end of the block is removed.
        """
        inputs = fingerprint(self.source.fingerprint, self.definition)
        current = manifest(self.path)
        if current is not None and current.inputs == inputs:
            yield StagedTable(self.path, None)
            return
        with staged_version(
            self.path,
            inputs,
            self.info,
            definition=self.definition,
            made_from=self.source.days,
        ) as version:
            yield StagedTable(self.path, version)

    def last(self, version: Version) -> Manifest | None:
        """The version before, if the next one can go on from it: its definition is the same."""
        last = version.published
        return last if last and last.days and last.definition == self.definition else None

    def write_whole(
        self, connection: duckdb.DuckDBPyConnection, version: Version, sql: str, partitions: int = 1
    ) -> None:
        """Write every row that `sql` gives, run once for each value of the variable `partition`.

        The rows of each partition are in the order of their days, so that some days at a time can
        be read, sorted and written: a sort of all rows would spill most of them, more than once.
        """
        ordered = f"FROM ({sql})" + f" ORDER BY {self.time_column}" * (partitions > 1)
        for partition in range(partitions):
            connection.execute(f"SET VARIABLE partition = {partition}")
            into = "INSERT INTO new_rows" if partition else "CREATE OR REPLACE TABLE new_rows AS"
            connection.execute(f"{into} {ordered}")
        for rows in self._spans(connection, "new_rows") if partitions > 1 else ["new_rows"]:
            version.write_days(connection, rows, self.time_column, self.order_by)
        connection.execute("DROP TABLE new_rows")  # the checks need the memory

    def _spans(self, connection: duckdb.DuckDBPyConnection, rows: str) -> list[str]:
        """The rows as relations of whole days, of some `SPAN_ROWS` rows each."""
        days = connection.execute(
            f"SELECT epoch_us(date_trunc('day', {self.time_column})), count(*) FROM {rows} "
            "GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        starts, span = [], SPAN_ROWS
        for start_us, count in days:
            if span >= SPAN_ROWS:
                starts.append(start_us)
                span = 0
            span += count
        return [
            f"(FROM {rows} WHERE {self.time_column} >= make_timestamptz({start_us})"
            + (f" AND {self.time_column} < make_timestamptz({end_us}))" if end_us else ")")
            for start_us, end_us in zip_longest(starts, starts[1:])
        ] or [rows]

    def write_part(
        self,
        connection: duckdb.DuckDBPyConnection,
        version: Version,
        sql: str,
        stale: str,
        from_us: int,
    ) -> None:
        """Let the rows of `sql` replace the stale ones of the version before; keep equal days.

        Args:
            connection: runs `sql`.
            version: to be written.
            sql: query for the new rows; those before `from_us` are left out.
            stale: condition on rows of the version before, true for those to be replaced.
            from_us: a midnight; no row before it is stale.
        """
        assert version.published is not None
        connection.execute(
            f"CREATE OR REPLACE TABLE new_rows AS FROM ({sql}) "
            f"WHERE {self.time_column} >= make_timestamptz({from_us})"
        )
        days = version.published.days
        since = read_days(version.table, [day for day in days if day >= iso_day(from_us)])
        day_column = f"CAST({self.time_column} AS DATE)"
        differing = connection.execute(
            f"SELECT DISTINCT CAST({day_column} AS VARCHAR) "
            f"FROM {only_in_one('new_rows', f'(FROM {since} WHERE {stale})')}"
        ).fetchall()
        changed_days = {day for (day,) in differing}
        for day in days:
            if day not in changed_days:
                version.keep(day)
        if changed_days:
            staying = read_days(version.table, changed_days.intersection(days))
            listed = ", ".join(f"DATE '{day}'" for day in sorted(changed_days))
            rows = (
                f"(FROM new_rows WHERE {day_column} IN ({listed})"
                f" UNION ALL FROM {staying} WHERE NOT ({stale}))"
            )
            version.write_days(connection, rows, self.time_column, self.order_by)
        connection.execute("DROP TABLE new_rows")
