"""A table's next version from its last one: what can have changed is made anew, the rest is kept.

Three facts carry this. A row stamped before an event knows nothing of it (the leakage test holds
that), so nothing changes before the earliest event that moved, but for a session that it extends.
A shopper's rows depend on the shopper's own events and on those of visitors that a log-in links
to them, so the others' rows stay. And a table of midnights needs, for the days ahead, the events
within the longest window and what its carried features were before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import ibis

from nextbuy.features.history import links
from nextbuy.settings import Settings
from nextbuy.tables.sessions import SESSION_EVENTS
from nextbuy.times import DAY, MINUTE, to_datetime
from nextbuy.versioned_table import Manifest, Version, files, read_days, version_of


def iso(us: int) -> str:
    """The day (UTC) of a moment in microseconds.

    >>> iso(86_400_000_000)
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


def find_moved(
    connection: duckdb.DuckDBPyConnection, before: str, after: str, moment: str = "event_us"
) -> tuple[int | None, int | None]:
    """Leave in `moved` the shopper of every row that only one of the relations has.

    Returns the earliest `event_us` and the earliest `moment` of such rows, None if there is none.
    """
    connection.execute(
        "CREATE OR REPLACE TABLE moved AS "
        f"SELECT user_id, min(event_us) AS event_us, min({moment}) AS moment_us "
        f"FROM {only_in_one(before, after)} GROUP BY user_id"
    )
    (found,) = connection.execute("SELECT min(event_us), min(moment_us) FROM moved").fetchall()
    return found[0], found[1]


@dataclass(frozen=True)
class SessionChange:
    """How sessions differ from those a table was made from.

    The connection then has `moved`: the shoppers with a session event that moved.
    """

    folder: Path
    """The version of the sessions that the table was made from."""
    gone: tuple[str, ...]
    """Its days that the sessions no longer have so."""
    come: tuple[str, ...]
    """Days that it did not have so."""
    first_us: int | None
    """Earliest session event that moved."""
    first_start_us: int | None
    """Earliest start of a session with such an event."""
    old_newest_us: int
    new_newest_us: int
    gap_us: int

    @property
    def rows_from_us(self) -> int:
        """A session that ended up to a gap before a moved event may have ended later now."""
        first_us = self.new_newest_us + DAY if self.first_us is None else self.first_us
        return (first_us - self.gap_us) // DAY * DAY

    @property
    def midnights_from_us(self) -> int:
        """The first midnight whose rows can have changed."""
        newest = min(self.old_newest_us, self.new_newest_us)
        return (min(newest, newest if self.first_us is None else self.first_us) // DAY + 1) * DAY


def session_change(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    sessions: Manifest,
    made_from: Manifest,
) -> SessionChange | None:
    """Compare the sessions with those that a table was made from; None if these are gone."""
    found = version_of(settings.sessions, made_from.made_from)
    if found is None or not found[1].days:
        return None
    folder, earlier = found
    gone, come = differing(earlier.days, sessions.days)
    columns = (
        "(SELECT *, epoch_us(event_time) AS event_us, epoch_us(session_start) AS start_us FROM {})"
    )
    first_us, first_start_us = find_moved(
        connection,
        columns.format(read_days(folder, gone)),
        columns.format(read_days(settings.sessions, come)),
        "start_us",
    )
    return SessionChange(
        folder,
        tuple(gone),
        tuple(come),
        first_us,
        first_start_us,
        earlier.info["newest_us"],
        sessions.info["newest_us"],
        sessions.info["sessions"]["gap_minutes"] * MINUTE,
    )


def find_affected(
    connection: duckdb.DuckDBPyConnection,
    settings: Settings,
    sessions: Manifest,
    change: SessionChange,
) -> None:
    """Leave `affected` and `affected_events` in the connection.

    These are the shoppers whose features can have changed, and all their session events; no other
    shopper matters to them.
    """
    shared = sessions.days.keys() - set(change.come)
    parts = {
        "both": read_days(settings.sessions, shared),
        "old": read_days(change.folder, change.gone),
        "new": read_days(settings.sessions, change.come),
    }
    find_links(connection, parts if "login" in sessions.info["provides"] else {})
    # Old links and new ones, followed both ways: whoever gained or lost a past is reached.
    connection.execute(
        """CREATE OR REPLACE TABLE affected AS
        WITH RECURSIVE pairs AS (
            SELECT visitor_id AS a, user_id AS b FROM links
            UNION SELECT user_id, visitor_id FROM links),
        reached AS (
            SELECT user_id FROM moved
            UNION SELECT pairs.b FROM reached JOIN pairs ON pairs.a = reached.user_id)
        FROM reached"""
    )
    connection.execute(
        "CREATE OR REPLACE TABLE affected_events AS "
        f"SELECT {session_event_columns()} FROM read_parquet('{files(settings.sessions)}', "
        "hive_partitioning = false) SEMI JOIN affected USING (user_id)"
    )


def session_event_columns() -> str:
    """Columns of published sessions as definitions name and type them."""
    given = {"event_us": "event_time", "session_start_us": "session_start"}
    return ", ".join(
        f"epoch_us({given[name]}) AS {name}" if name in given else name
        for name in SESSION_EVENTS.columns
    )


def find_links(connection: duckdb.DuckDBPyConnection, parts: Mapping[str, str]) -> None:
    """Leave in `links` which visitor turned out to be which shopper, by each version's log-ins.

    `parts` maps versions of the published sessions to relations; what is named `both` belongs to
    all others and is read once.
    """
    connection.execute("CREATE OR REPLACE TABLE links (visitor_id VARCHAR, user_id VARCHAR)")
    if not parts:
        return
    events = " UNION ALL ".join(
        "SELECT user_id, source_session_id, event_type, epoch_us(event_time) AS event_us, "
        f"'{version}' AS version FROM {rows}"
        for version, rows in parts.items()
    )
    # Only shop sessions with a log-in can link anyone.
    connection.execute(
        f"CREATE OR REPLACE TABLE of_logins AS FROM ({events}) SEMI JOIN "
        f"(SELECT source_session_id FROM ({events}) WHERE event_type = 'login') "
        "USING (source_session_id)"
    )
    sql = ibis.to_sql(links(SESSION_EVENTS), dialect="duckdb")
    for version in parts.keys() - {"both"}:
        connection.execute(
            "CREATE OR REPLACE VIEW session_events AS FROM of_logins "
            f"WHERE version IN ('both', '{version}')"
        )
        connection.execute(f"INSERT INTO links SELECT visitor_id, user_id FROM ({sql})")
    connection.execute("DROP VIEW session_events; DROP TABLE of_logins")


def write_changed(
    connection: duckdb.DuckDBPyConnection,
    version: Version,
    stamp: str,
    order_by: Sequence[str],
    stale: str,
    from_us: int,
) -> None:
    """Put the table `fresh` in the place of the last version's stale rows; keep equal days.

    Args:
        connection: holds `fresh`.
        version: to be written.
        stamp: column that gives a row's day.
        order_by: total order of a day's rows.
        stale: condition on rows of the last version, true for those that `fresh` replaces.
        from_us: a midnight; no row before it is stale, nor in `fresh`.
    """
    assert version.published is not None
    days = version.published.days
    replaced = read_days(version.table, [day for day in days if day >= iso(from_us)])
    connection.execute(f"CREATE OR REPLACE VIEW stale AS FROM {replaced} WHERE {stale}")
    found = connection.execute(
        f"SELECT DISTINCT CAST(CAST({stamp} AS DATE) AS VARCHAR) "
        f"FROM {only_in_one('fresh', 'stale')}"
    ).fetchall()
    touched = {day for (day,) in found}
    for day in days:
        if day not in touched:
            version.keep(day)
    if touched:
        staying = read_days(version.table, touched.intersection(days))
        listed = ", ".join(f"DATE '{day}'" for day in sorted(touched))
        connection.execute(
            f"CREATE OR REPLACE VIEW merged AS FROM fresh WHERE CAST({stamp} AS DATE) IN ({listed})"
            f" UNION ALL FROM {staying} WHERE NOT ({stale})"
        )
        version.write_days(connection, "merged", stamp, order_by)
