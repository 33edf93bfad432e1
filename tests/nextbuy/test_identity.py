"""Linked users: the same query on DuckDB and SQLite, for every part of the platform."""

import sqlite3

import duckdb
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from nextbuy.tables.identity import find_login_groups, linked_users_sql

PAIRS = st.sets(st.tuples(st.integers(0, 9), st.integers(0, 5)), min_size=1, max_size=20)


def closure(start, memberships):
    """By hand: users reached from `start` through groups that they share."""
    reached = {start}
    while True:
        groups = {group for user, group in memberships if user in reached}
        more = reached | {user for user, group in memberships if group in groups}
        if more == reached:
            return reached
        reached = more


@how(max_examples=25, deadline=None, derandomize=True)
@given(PAIRS)
def test_every_chain_of_shared_groups_is_followed(memberships):
    query = linked_users_sql("SELECT user_id, user_id FROM visits", "visits", "visit")
    expected = sorted(
        (root, user) for root, _ in memberships for user in closure(root, memberships)
    )
    for connection in (duckdb.connect(), sqlite3.connect(":memory:")):
        connection.execute("CREATE TABLE visits (user_id INTEGER, visit INTEGER)")
        connection.executemany("INSERT INTO visits VALUES (?, ?)", sorted(memberships))
        assert sorted(connection.execute(query).fetchall()) == sorted(set(expected))
        connection.close()


def test_a_log_without_log_ins_links_nobody():
    with duckdb.connect() as connection:
        groups = find_login_groups(connection, {})
        start = "SELECT 'u1', 'u1'"
        query = linked_users_sql(start, groups, "shopper_id")
        assert connection.execute(query).fetchall() == [("u1", "u1")]
