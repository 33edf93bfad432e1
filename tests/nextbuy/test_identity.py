"""Linked users: the same query on DuckDB and SQLite, for every part of the platform."""

import sqlite3
import time

import duckdb
import ibis
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as how
from hypothesis import strategies as st

from nextbuy.features.history import linkable, links
from nextbuy.tables.identity import find_links, linked_users_sql
from nextbuy.tables.sessions import SESSION_EVENTS
from nextbuy.times import MINUTE
from tests.nextbuy.histories import CONFIG, event, histories, sessionized
from tests.nextbuy.reference import Reference

PAIRS = st.sets(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12)


def closure(start, pairs):
    """By hand: users reached from `start` over pairs."""
    reached = {start}
    while True:
        more = reached | {b for a, b in pairs if a in reached}
        if more == reached:
            return reached
        reached = more


@how(max_examples=25, deadline=None, derandomize=True)
@given(PAIRS)
def test_every_chain_of_links_is_followed(pairs):
    both = pairs | {(b, a) for a, b in pairs}
    query = linked_users_sql("SELECT user_id, user_id FROM linked", "linked")
    expected = sorted({(root, user) for root, _ in both for user in closure(root, both)})
    for connection in (duckdb.connect(), sqlite3.connect(":memory:")):
        connection.execute("CREATE TABLE linked (user_id INTEGER, other_id INTEGER)")
        connection.executemany("INSERT INTO linked VALUES (?, ?)", sorted(both))
        assert sorted(connection.execute(query).fetchall()) == expected
        connection.close()


def test_a_log_without_log_ins_links_nobody():
    with duckdb.connect() as connection:
        found = find_links(connection, {}, 10)
        query = linked_users_sql("SELECT 'u1', 'u1'", found.linked)
        assert connection.execute(query).fetchall() == [("u1", "u1")]


def load(connection, events):
    rows = sessionized(events)
    connection.register("rows", pa.Table.from_pylist(rows))
    connection.execute("CREATE TABLE session_events AS FROM rows")
    connection.execute(
        "CREATE TABLE published AS SELECT * EXCLUDE event_us, make_timestamptz(event_us) "
        "AS event_time FROM session_events"
    )


def defined_links(connection, max_shoppers):
    sql = ibis.to_sql(links(linkable(SESSION_EVENTS, max_shoppers)), dialect="duckdb")
    return sorted(connection.sql(f"SELECT visitor_id, user_id, linked_us FROM ({sql})").fetchall())


@how(max_examples=40, deadline=None, derandomize=True)
@given(histories())
def test_links_of_a_version_are_those_of_the_definition_and_of_the_reference(events):
    expected = sorted((v, u, us) for v, (u, us) in Reference(events, CONFIG).links.items())
    with duckdb.connect(config={"threads": 1}) as connection:
        load(connection, events)
        assert defined_links(connection, CONFIG.max_shoppers) == expected
        found = find_links(connection, {"new": "published"}, CONFIG.max_shoppers)
        columns = "visitor_id, user_id, linked_us"
        rows = connection.execute(f"SELECT {columns} FROM {found.pairs}").fetchall()
        assert sorted(rows) == expected


@pytest.mark.parametrize(("shoppers", "linked"), [(3, True), (4, False)])
def test_a_shop_session_of_more_shoppers_than_one_can_have_links_nobody(shoppers, linked):
    visits = [event(f"a{i}", i * MINUTE, "view", source_session_id="0") for i in range(1, shoppers)]
    login = event("ann", shoppers * MINUTE, "login", source_session_id="0")
    with duckdb.connect(config={"threads": 1}) as connection:
        load(connection, [*visits, login])
        found = {visitor for visitor, _, _ in defined_links(connection, max_shoppers=3)}
    assert found == ({f"a{i}" for i in range(1, shoppers)} if linked else set())


def test_a_link_from_before_the_crowd_stays_and_a_log_in_there_still_tells_a_shopper():
    events = [
        event("guest", 0, "view", source_session_id="null"),
        event("ann", MINUTE, "login", source_session_id="null"),
        event("bob", 2 * MINUTE, "login", source_session_id="null"),
        event("cat", 3 * MINUTE, "login", source_session_id="null"),
        # Cat has logged in before, if only where nobody is linked: no anonymous past of Dan.
        event("cat", 4 * MINUTE, "view", source_session_id="s1"),
        event("dan", 5 * MINUTE, "login", source_session_id="s1"),
    ]
    with duckdb.connect(config={"threads": 1}) as connection:
        load(connection, events)
        found = {(v, u) for v, u, _ in defined_links(connection, max_shoppers=3)}
    assert found == {("guest", "ann")}


@pytest.mark.parametrize("engine", [duckdb.connect, lambda: sqlite3.connect(":memory:")])
def test_the_work_grows_with_the_links_and_not_with_their_square(engine):
    """A shopper with 20,000 visitors: joined with each other, they would be 400 million pairs."""
    connection = engine()
    connection.execute("CREATE TABLE linked (user_id INTEGER, other_id INTEGER)")
    connection.execute(
        "INSERT INTO linked WITH RECURSIVE n (i) AS "
        "(SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) SELECT i, 0 FROM n"
    )
    connection.execute("INSERT INTO linked SELECT other_id, user_id FROM linked")
    connection.execute("CREATE INDEX by_user ON linked (user_id)")
    began = time.perf_counter()
    query = linked_users_sql("SELECT 0, user_id FROM linked", "linked")
    assert len(connection.execute(query).fetchall()) == 20_001
    assert time.perf_counter() - began < 30
    connection.close()
