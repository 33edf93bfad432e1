"""Which ids belong to one person: those that log-ins link, directly or through others.

A shopper's features depend on the events of everybody linked to them, so whatever computes a part
of the shoppers (an increment, a partition, the live path, a cut history) takes linked users whole.
Such a part does not hold everybody who used a shop session, so the sessions that too many share
are looked up in all events and taken out of the part's (`without_crowded`).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import duckdb


def linked_users_sql(start: str, linked: str) -> str:
    """SQL (DuckDB and SQLite) for everybody linked to the users that `start` gives.

    Two users are linked if `linked` has them, or if a chain of such pairs leads from one to the
    other. The work grows with the number of pairs: each user is followed once for every root.

    Args:
        start: query for (root, user_id); each user is followed separately for every root.
        linked: relation (user_id, other_id), each pair in both directions.

    Returns:
        a query for (root, user_id), each pair once, the pairs of `start` among them.
    """
    return (
        f"WITH RECURSIVE reached (root, user_id) AS ({start} "
        "UNION SELECT reached.root, linked.other_id FROM reached "
        f"JOIN {linked} AS linked ON linked.user_id = reached.user_id) "
        "SELECT root, user_id FROM reached"
    )


class Links(NamedTuple):
    """What the log-ins of one or two versions of the sessions tell; names of tables."""

    pairs: str
    """(version, visitor_id, user_id, linked_us): each visitor with the shopper it turned out to
    be."""
    linked: str
    """(user_id, other_id): the same pairs in both directions, of any version."""
    changed: str
    """(user_id): visitors and shoppers of the links that not all versions have."""
    crowded: str
    """(source_session_id, crowded_us): the shop sessions that too many share, by the newest
    version, and since when."""


def find_links(
    connection: "duckdb.DuckDBPyConnection", versions: Mapping[str, str], max_shoppers: int
) -> Links:
    """Which visitors turned out to be which shopper, by each version's log-ins.

    Args:
        connection: runs it; the tables made here are replaced by the next call.
        versions: name -> relation of published sessions, the newest version last. What is named
            `both` belongs to all the others and is read once. Empty if the log has no log-ins.
        max_shoppers: of a shop session (`SessionConfig`).
    """
    # The service imports this module for `linked_users_sql` alone: Ibis would cost it memory.
    import ibis

    from nextbuy.features.history import crowded_sessions, links
    from nextbuy.tables.sessions import SESSION_EVENTS

    connection.execute(
        "CREATE OR REPLACE TABLE login_links "
        "(version VARCHAR, visitor_id VARCHAR, user_id VARCHAR, linked_us BIGINT); "
        "CREATE OR REPLACE TABLE crowded (source_session_id VARCHAR, crowded_us BIGINT)"
    )
    names = [name for name in versions if name != "both"]
    if versions:
        events = " UNION ALL ".join(
            "SELECT user_id, source_session_id, event_type, epoch_us(event_time) AS event_us, "
            f"'{version}' AS version FROM {rows}"
            for version, rows in versions.items()
        )
        # Only shop sessions with a log-in can link anyone. A log-in without one tells that its
        # user is a shopper.
        connection.execute(
            f"CREATE OR REPLACE TABLE login_sessions AS FROM ({events}) SEMI JOIN "
            f"(SELECT source_session_id FROM ({events}) WHERE event_type = 'login') "
            f"USING (source_session_id) UNION ALL FROM ({events}) "
            "WHERE event_type = 'login' AND source_session_id IS NULL"
        )
        columns = ("user_id", "source_session_id", "event_type", "event_us")
        schema = {name: SESSION_EVENTS.schema()[name] for name in columns}
        all_events = ibis.table(schema, name="version_events")
        crowds = ibis.to_sql(crowded_sessions(all_events, max_shoppers), dialect="duckdb")
        events_left = ibis.table(schema, name="linkable_events")
        pairs = ibis.to_sql(links(events_left), dialect="duckdb")
        left = without_crowded("version_events", "crowded", columns)
        connection.execute(
            "CREATE OR REPLACE TEMP VIEW version_events AS SELECT * FROM login_sessions "
            "WHERE version IN ('both', getvariable('version')); "
            f"CREATE OR REPLACE TEMP VIEW linkable_events AS {left}"
        )
        for name in names:
            connection.execute(f"SET VARIABLE version = '{name}'")
            connection.execute(f"DELETE FROM crowded; INSERT INTO crowded {crowds}")
            connection.execute(
                "INSERT INTO login_links "
                f"SELECT '{name}', visitor_id, user_id, linked_us FROM ({pairs})"
            )
        connection.execute(
            "DROP VIEW linkable_events; DROP VIEW version_events; DROP TABLE login_sessions"
        )
    connection.execute(
        "CREATE OR REPLACE TABLE linked AS "
        "SELECT visitor_id AS user_id, user_id AS other_id FROM login_links "
        "UNION SELECT user_id, visitor_id FROM login_links; "
        "CREATE OR REPLACE TABLE changed_links AS SELECT DISTINCT unnest([visitor_id, user_id]) "
        "AS user_id FROM (SELECT visitor_id, user_id FROM login_links "
        f"GROUP BY visitor_id, user_id, linked_us HAVING count(*) < {len(names)})"
    )
    return Links("login_links", "linked", "changed_links", "crowded")


def without_crowded(events: str, crowded: str, columns: tuple[str, ...]) -> str:
    """SQL (DuckDB) for events without the shop sessions that too many share.

    Args:
        events: relation with these columns, `event_us` and `source_session_id` among them.
        crowded: relation (source_session_id, crowded_us).
        columns: to select, in order.
    """
    named = {"source_session_id": "CASE WHEN crowded_us IS NULL OR event_us < crowded_us "
             "THEN e.source_session_id END AS source_session_id"}  # fmt: skip
    return (
        f"SELECT {', '.join(named.get(name, f'e.{name}') for name in columns)} FROM {events} AS e "
        f"LEFT JOIN {crowded} AS c ON c.source_session_id = e.source_session_id"
    )


def linkable_session_events(published: str, crowded: str) -> str:
    """SQL (DuckDB) for published session events as definitions name and type them.

    Args:
        published: query for published sessions.
        crowded: relation of the shop sessions that too many share; they are left out.
    """
    from nextbuy.tables.sessions import SESSION_EVENTS, session_event_columns

    rows = f"(SELECT {session_event_columns()} FROM ({published}))"
    return without_crowded(rows, crowded, SESSION_EVENTS.columns)
