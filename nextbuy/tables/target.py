"""A table to be published: whether it is current, and how its next version is written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import duckdb

from nextbuy.tables.incremental import write_changed
from nextbuy.versioned_table import Manifest, Version, fingerprint, manifest, new_version

SPAN_ROWS = 1_000_000
"""Rows of a large table that are sorted and written at a time."""

Done = Callable[[str, int, bool], None]
"""Told of each table: its name, its rows, whether it was built (or was up to date)."""

Gate = Callable[[Version, dict[str, Any]], None]
"""Called with a version that is written but not published, and what its manifest will tell as
`info`; raises NextbuyError to keep it out."""


@dataclass(frozen=True)
class Target:
    """A table to be published, and what it is made from."""

    path: Path
    source: Manifest
    definition: str
    stamp: str
    order_by: tuple[str, ...]
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> str:
        """Fingerprint of all that the table is made from."""
        return fingerprint(self.source.fingerprint, self.definition)

    def is_current(self, done: Done) -> bool:
        """Whether there is nothing to do, and if so, tell of it."""
        current = manifest(self.path)
        if current is None or current.inputs != self.inputs:
            return False
        done(self.path.name, current.rows, False)
        return True

    @contextmanager
    def next_version(self, done: Done, gate: Gate | None) -> Iterator[Version]:
        """Write the next version; tell of it once it has passed the gate and is published."""
        with new_version(
            self.path,
            self.inputs,
            self.info,
            definition=self.definition,
            made_from=self.source.days,
        ) as version:
            yield version
            if gate:
                gate(version, self.info)
        published = manifest(self.path)
        assert published is not None
        done(self.path.name, published.rows, True)

    def last(self, version: Version) -> Manifest | None:
        """The version to go on from, if there is one of the same definition."""
        found = version.published
        return found if found and found.days and found.definition == self.definition else None

    def write_whole(
        self, connection: duckdb.DuckDBPyConnection, version: Version, sql: str, buckets: int = 1
    ) -> None:
        """Write every row that `sql` gives, run once for each value of the variable `bucket`.

        Each bucket lies in the order of its days, so that some days at a time can be found, sorted
        and written: a sort of all rows would spill most of them, more than once.
        """
        ordered = f"FROM ({sql})" + f" ORDER BY {self.stamp}" * (buckets > 1)
        for bucket in range(buckets):
            connection.execute(f"SET VARIABLE bucket = {bucket}")
            into = "INSERT INTO fresh" if bucket else "CREATE OR REPLACE TABLE fresh AS"
            connection.execute(f"{into} {ordered}")
        for rows in self._spans(connection) if buckets > 1 else ["fresh"]:
            version.write_days(connection, rows, self.stamp, self.order_by)
        connection.execute("DROP TABLE fresh")  # the gate needs the memory

    def _spans(self, connection: duckdb.DuckDBPyConnection) -> list[str]:
        """The rows of `fresh` as relations of whole days, of some `SPAN_ROWS` rows each."""
        days = connection.execute(
            f"SELECT epoch_us(date_trunc('day', {self.stamp})), count(*) FROM fresh "
            "GROUP BY ALL ORDER BY ALL"
        ).fetchall()
        starts, held = [], SPAN_ROWS
        for start_us, rows in days:
            if held >= SPAN_ROWS:
                starts.append(start_us)
                held = 0
            held += rows
        return [
            f"(FROM fresh WHERE {self.stamp} >= make_timestamptz({start_us})"
            + (f" AND {self.stamp} < make_timestamptz({end_us}))" if end_us else ")")
            for start_us, end_us in zip_longest(starts, starts[1:])
        ] or ["fresh"]

    def write_part(
        self,
        connection: duckdb.DuckDBPyConnection,
        version: Version,
        sql: str,
        stale: str,
        from_us: int,
    ) -> None:
        """Put the rows of `sql` in the place of the stale ones; see `write_changed`."""
        connection.execute(
            f"CREATE OR REPLACE TABLE fresh AS FROM ({sql}) "
            f"WHERE {self.stamp} >= make_timestamptz({from_us})"
        )
        write_changed(connection, version, self.stamp, self.order_by, stale, from_us)
