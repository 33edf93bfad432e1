import duckdb
import ibis
from hypothesis import given, settings

from nextbuy.log_span import Hole
from nextbuy.shop import LabelConfig
from nextbuy.tables.labels import label_rows
from nextbuy.tables.sessions import SESSION_EVENTS
from nextbuy.times import DAY, MINUTE
from tests.nextbuy.histories import CONFIG, START, _load, event, histories
from tests.nextbuy.reference import Reference

LABELS = LabelConfig(horizon_days=30)


def labelled(events, newest_us=None, holes=()):
    newest_us = newest_us or max(e["event_us"] for e in events)
    rows = label_rows(SESSION_EVENTS, newest_us, CONFIG, LABELS, holes)
    sql = ibis.to_sql(rows, dialect="duckdb")
    with duckdb.connect() as engine:
        _load(engine, events)
        rows = engine.sql(sql).to_arrow_table().to_pylist()
    return {(r["user_id"], r["item_id"], r["event_us"] - START): r["label"] for r in rows}


def test_bought_in_the_next_session():
    events = [event("u1", 0, "view"), event("u1", DAY, "purchase"), event("u2", 5 * DAY, "view")]
    assert labelled(events)[("u1", "i1", 0)] == 1


def test_bought_only_in_the_session_after_the_next():
    events = [event("u1", d * DAY, k) for d, k in ((0, "view"), (1, "view"), (2, "purchase"))]
    found = labelled([*events, event("u2", 9 * DAY, "view")])
    assert found[("u1", "i1", 0)] == 0
    assert found[("u1", "i1", DAY)] == 1


def test_next_session_after_the_horizon_is_a_no():
    events = [event("u1", 0, "view"), event("u1", 30 * DAY + 1, "purchase")]
    assert labelled(events)[("u1", "i1", 0)] == 0


def test_next_session_at_the_very_horizon_counts():
    events = [event("u1", 0, "view"), event("u1", 30 * DAY, "purchase")]
    assert labelled(events, START + 40 * DAY)[("u1", "i1", 0)] == 1


def test_never_coming_back_is_a_no_once_the_horizon_is_over():
    events = [event("u1", 0, "view"), event("u2", 31 * DAY, "view")]
    assert labelled(events)[("u1", "i1", 0)] == 0


def test_open_while_the_horizon_reaches_past_the_data():
    events = [event("u1", 0, "view"), event("u2", 29 * DAY, "view")]
    assert labelled(events)[("u1", "i1", 0)] is None


def test_open_while_the_next_session_may_still_go_on():
    events = [event("u1", 0, "view"), event("u1", DAY, "view")]
    assert labelled(events, START + DAY + 29 * MINUTE)[("u1", "i1", 0)] is None
    assert labelled(events, START + DAY + 30 * MINUTE)[("u1", "i1", 0)] == 0


def test_a_horizon_that_reaches_into_a_hole_of_the_log_decides_nothing():
    hole = Hole(START + 40 * DAY, START + 70 * DAY)
    events = [
        event("early", 10 * DAY, "view"),  # its horizon ends with the hole's first moment
        event("gone", 11 * DAY, "view"),
        event("back", 20 * DAY, "view"),  # seen again, like those alone who come back soon
        event("back", 25 * DAY, "purchase"),
        event("after", 45 * DAY, "view"),  # seen after the hole: is it the next session?
        event("after", 71 * DAY, "purchase"),
        event("new", 70 * DAY, "view"),
        event("new", 72 * DAY, "purchase"),
    ]
    found = labelled(events, START + 120 * DAY, [hole])
    assert found["early", "i1", 10 * DAY] == 0
    assert found["gone", "i1", 11 * DAY] is None
    assert found["back", "i1", 20 * DAY] is None
    assert found["after", "i1", 45 * DAY] is None
    assert found["new", "i1", 70 * DAY] == 1
    assert None not in labelled(events, START + 120 * DAY).values()


def test_a_session_that_a_hole_cuts_off_decides_nothing():
    hole = Hole(START + 30 * DAY + MINUTE, START + 50 * DAY)
    events = [event("u1", 0, "view"), event("u1", 30 * DAY, "purchase")]
    assert labelled(events, START + 99 * DAY, [hole])["u1", "i1", 0] is None
    hole = Hole(START + 30 * DAY + 30 * MINUTE, START + 50 * DAY)
    assert labelled(events, START + 99 * DAY, [hole])["u1", "i1", 0] == 1


def test_bots_are_left_out():
    burst = [event("u1", i, "view", f"i{i}") for i in range(CONFIG.bot_burst_events)]
    assert labelled(burst, START + 99 * DAY) == {}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(histories())
def test_labels_agree_with_the_slow_reference(events):
    newest = max(e["event_us"] for e in events)
    wanted = {}
    for user, own in Reference(events, CONFIG).sessions.items():
        bots = Reference(events, CONFIG).bots
        for i, s in enumerate(own):
            if any(e["event_id"] in bots for e in s.events):
                continue
            follow = own[i + 1] if i + 1 < len(own) else None
            back = follow is not None and follow.start - s.end <= LABELS.horizon_us
            known = follow.end + CONFIG.gap_us if back else s.end + LABELS.horizon_us
            for item in s.items():
                bought = back and follow.count("n_purchases", item) > 0
                label = int(bought) if known <= newest else None
                wanted[(user, item, s.end - START)] = label
    assert labelled(events) == wanted
