"""A table to be published: whether it is current, and how its next version is written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb

from nextbuy.increment import write_changed
from nextbuy.storage import Manifest, Version, fingerprint, manifest, new_version

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
        self, engine: duckdb.DuckDBPyConnection, version: Version, sql: str, buckets: int = 1
    ) -> None:
        """Write every row that `sql` gives, run once for each value of the variable `bucket`."""
        for bucket in range(buckets):
            engine.execute(f"SET VARIABLE bucket = {bucket}")
            into = "INSERT INTO fresh" if bucket else "CREATE OR REPLACE TABLE fresh AS"
            engine.execute(f"{into} {sql}")
        version.write_days(engine, "fresh", self.stamp, self.order_by)
        engine.execute("DROP TABLE fresh")  # the gate needs the memory

    def write_part(
        self,
        engine: duckdb.DuckDBPyConnection,
        version: Version,
        sql: str,
        stale: str,
        from_us: int,
    ) -> None:
        """Put the rows of `sql` in the place of the stale ones; see `write_changed`."""
        engine.execute(
            f"CREATE OR REPLACE TABLE fresh AS FROM ({sql}) "
            f"WHERE {self.stamp} >= make_timestamptz({from_us})"
        )
        write_changed(engine, version, self.stamp, self.order_by, stale, from_us)
