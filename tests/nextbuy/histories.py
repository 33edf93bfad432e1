"""Events in, feature values out: the one way tests run definitions."""

from functools import cache

import duckdb
import ibis
import pyarrow as pa
from hypothesis import strategies as st

from nextbuy.events import EventType
from nextbuy.features import TABLES, FeatureTable
from nextbuy.features.history import linkable
from nextbuy.shop import SessionConfig
from nextbuy.shop_clock import UTC_CLOCK
from nextbuy.tables.sessions import EVENTS, SESSION_EVENTS, sessionize
from nextbuy.times import DAY, MINUTE, SECOND

START = 1_704_067_200 * SECOND  # 2024-01-01
CONFIG = SessionConfig(bot_burst_events=6, bot_session_events=9, max_shoppers=2)
"""Bots early and crowds small, so that random histories have some."""

_SCHEMA = pa.schema(
    [
        (name, pa.int64() if kind.is_integer() else pa.string())
        for name, kind in EVENTS.schema().items()
    ]
)


def event(user, us, kind, item="i1", **more):
    """One event; the id follows from the content, as for a log without ids."""
    row = {
        "user_id": user,
        "event_us": START + us,
        "event_type": EventType(kind).value,
        "item_id": None if kind == "login" else item,
        "category": None,
        "brand": None,
        "price": None,
        "discount": None,
        "source_session_id": None,
        **more,
    }
    row.setdefault("event_id", "|".join(str(row[name]) for name in sorted(row)))
    return row


@cache
def _sessions_sql():
    return ibis.to_sql(sessionize(EVENTS, CONFIG), dialect="duckdb")


@cache
def _table_sql(table: FeatureTable, clock):
    events = linkable(SESSION_EVENTS, CONFIG.max_shoppers)
    return ibis.to_sql(table.build(events, clock=clock), dialect="duckdb")


def sessionized(events):
    """Rows of session events as dicts, in order of shopper and time."""
    with duckdb.connect(config={"threads": 1}) as engine:
        _load(engine, events)
        return (
            engine.sql("SELECT * FROM session_events ORDER BY user_id, event_us, event_number")
            .to_arrow_table()
            .to_pylist()
        )


def computed(events, tables=TABLES, clock=UTC_CLOCK):
    """Table name -> {(keys..., event_us): {feature: value}}."""
    found = {}
    with duckdb.connect(config={"threads": 1}) as engine:
        _load(engine, events)
        for table in tables:
            found_rows = engine.execute(
                _table_sql(table, clock)
            )  # a relation would be planned twice
            names = [column[0] for column in found_rows.description]
            keyed = {}
            for values in found_rows.fetchall():
                row = dict(zip(names, values, strict=True))
                key = (*(row.pop(k) for k in table.keys), row.pop("event_us"))
                assert key not in keyed, f"{table.name} has two rows for {key}"
                keyed[key] = {name: _plain(value) for name, value in row.items()}
            found[table.name] = keyed
    return found


def _load(engine, events):
    columns = {name: [e[name] for e in events] for name in _SCHEMA.names}
    engine.register("events", pa.table(columns, schema=_SCHEMA))
    engine.execute(f"CREATE TABLE session_events AS {_sessions_sql()}")


def _plain(value):
    return int(value) if hasattr(value, "as_integer_ratio") and value == int(value) else value


@st.composite
def histories(draw, most=40):
    """Random histories of three shoppers, one of them anonymous, with ties, gaps and log-ins."""
    moments = st.one_of(
        st.integers(0, 2 * 3600 * SECOND),  # close together: sessions, ties
        st.integers(0, 3600).map(lambda s: 23 * 3600 * SECOND + s * 2 * SECOND),  # around midnight
        st.integers(0, 45 * 86_400).map(lambda s: s * SECOND),  # over all windows
        st.sampled_from([d * DAY for d in (1, 2, 7, 8, 30, 31)]),  # on the very boundaries
        st.sampled_from([30 * MINUTE, 30 * MINUTE + 1, 60 * MINUTE]),
    )
    one = st.builds(
        event,
        user=st.sampled_from(["u1", "u2", "a1"]),
        us=moments,
        kind=st.sampled_from(
            [
                "view",
                "view",
                "view",
                "scroll",
                "add_to_cart",
                "remove_from_cart",
                "purchase",
                "login",
            ]
        ),
        item=st.sampled_from(["i1", "i2", "i3"]),
        category=st.sampled_from([None, "c1", "c2"]),
        brand=st.sampled_from([None, "b1", "b2"]),
        price=st.sampled_from([None, 0, 999, 1000, 123_456]),
        discount=st.sampled_from([None, 0, 100]),
        source_session_id=st.sampled_from([None, "s1", "s2"]),
    )
    return draw(st.lists(one, min_size=1, max_size=most, unique_by=lambda e: e["event_id"]))
