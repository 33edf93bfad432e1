"""Which ids belong to one person: those that log-ins link, directly or through others.

A shopper's features depend on the events of everybody linked to them, so whatever computes a part
of the shoppers (an increment, a partition, the live path, a cut history) takes linked users whole.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb


def linked_users_sql(start: str, memberships: str, group: str) -> str:
    """SQL (DuckDB and SQLite) for everybody linked to the users that `start` gives.

    Two users are linked if they are in the same group, or if a chain of such links leads from one
    to the other. A user in no group is linked to nobody else.

    Args:
        start: query for (root, user_id); each user is followed separately for every root.
        memberships: relation with the columns `user_id` and `group`.
        group: its column that names the group, such as a shop session.

    Returns:
        a query for (root, user_id), each pair once, the pairs of `start` among them.
    """
    return (
        f"WITH RECURSIVE reached (root, user_id) AS ({start} "
        "UNION SELECT reached.root, other.user_id FROM reached "
        f"JOIN {memberships} AS own ON own.user_id = reached.user_id "
        f"JOIN {memberships} AS other ON other.{group} = own.{group}) "
        "SELECT root, user_id FROM reached"
    )


def find_login_groups(connection: "duckdb.DuckDBPyConnection", versions: Mapping[str, str]) -> str:
    """Which visitors turned out to be which shopper, by each version's log-ins.

    Args:
        connection: runs it; the tables made here are replaced by the next call.
        versions: name -> relation of published sessions. What is named `both` belongs to all the
            others and is read once. Empty if the log has no log-ins.

    Returns:
        name of a table (user_id, shopper_id): every linked visitor, and each of these shoppers
        with their own id.
    """
    # The service imports this module for `linked_users_sql` alone: Ibis would cost it memory.
    import ibis

    from nextbuy.features.history import links
    from nextbuy.tables.sessions import SESSION_EVENTS

    connection.execute("CREATE OR REPLACE TABLE login_links (visitor_id VARCHAR, user_id VARCHAR)")
    if versions:
        events = " UNION ALL ".join(
            "SELECT user_id, source_session_id, event_type, epoch_us(event_time) AS event_us, "
            f"'{version}' AS version FROM {rows}"
            for version, rows in versions.items()
        )
        # Only shop sessions with a log-in can link anyone.
        connection.execute(
            f"CREATE OR REPLACE TABLE login_sessions AS FROM ({events}) SEMI JOIN "
            f"(SELECT source_session_id FROM ({events}) WHERE event_type = 'login') "
            "USING (source_session_id)"
        )
        version_events = ibis.table(SESSION_EVENTS.schema(), name="version_events")
        sql = ibis.to_sql(links(version_events), dialect="duckdb")
        for version in versions.keys() - {"both"}:
            connection.execute(
                "CREATE OR REPLACE VIEW version_events AS FROM login_sessions "
                f"WHERE version IN ('both', '{version}')"
            )
            connection.execute(f"INSERT INTO login_links SELECT visitor_id, user_id FROM ({sql})")
        connection.execute("DROP VIEW version_events; DROP TABLE login_sessions")
    connection.execute(
        "CREATE OR REPLACE TABLE login_groups AS "
        "SELECT visitor_id AS user_id, user_id AS shopper_id FROM login_links "
        "UNION SELECT user_id, user_id FROM login_links; DROP TABLE login_links"
    )
    return "login_groups"
