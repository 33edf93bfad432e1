from collections import Counter
from functools import cache

import duckdb
import ibis
from hypothesis import given, settings
from hypothesis import strategies as st

from nextbuy.log_span import Hole
from nextbuy.shop import LabelConfig
from nextbuy.tables.labels import label_rows
from nextbuy.tables.sessions import SESSION_EVENTS
from nextbuy.times import DAY, MINUTE
from tests.nextbuy.histories import CONFIG, START, _load, event, histories
from tests.nextbuy.reference import Reference

LABELS = LabelConfig(horizon_days=30)
ANY_MOMENT = 1_234_567_890_123_456_789


@cache
def _label_sql(holes):
    rows = label_rows(SESSION_EVENTS, ANY_MOMENT, CONFIG, LABELS, holes)
    sql = ibis.to_sql(rows, dialect="duckdb")
    assert sql.count(str(ANY_MOMENT)) == 1
    return sql


def label_table(events, newest_us=None, holes=()):
    """(user, item, moment) -> the row."""
    newest_us = newest_us or max(e["event_us"] for e in events)
    with duckdb.connect(config={"threads": 1}) as engine:
        _load(engine, events)
        found = engine.execute(_label_sql(tuple(holes)).replace(str(ANY_MOMENT), str(newest_us)))
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, values, strict=True)) for values in found.fetchall()]
    found = {(r["user_id"], r["item_id"], r["event_us"]): r for r in rows}
    assert len(found) == len(rows)
    return found


def labels(table):
    return {(user, item, us - START): row["label"] for (user, item, us), row in table.items()}


def labelled(events, newest_us=None, holes=()):
    return labels(label_table(events, newest_us, holes))


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


@settings(max_examples=40, deadline=None, derandomize=True)
@given(histories())
def test_labels_agree_with_the_slow_reference(events):
    newest = max(e["event_us"] for e in events)
    wanted = Reference(events, CONFIG).labels(newest, LABELS.horizon_us)
    found = label_table(events, newest)
    assert {key: (row["known_us"], row["label"]) for key, row in found.items()} == wanted


@settings(max_examples=40, deadline=None, derandomize=True)
@given(histories(), st.data())
def test_a_label_that_is_known_stays(events, data):
    """Cut at random moments: what was known by then is what is known in the end."""
    newest = max(e["event_us"] for e in events)
    cut = data.draw(st.sampled_from(sorted({e["event_us"] for e in events})))
    whole = known_labels(events, newest, cut)
    assert known_labels([e for e in events if e["event_us"] <= cut], cut, cut) == whole


def known_labels(events, newest, by):
    rows = label_table(events, newest)
    return {key: row["label"] for key, row in rows.items() if row["known_us"] <= by}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(histories())
def test_a_purchase_makes_one_row_of_an_item_positive(events):
    newest = max(e["event_us"] for e in events) + 99 * DAY
    rows = label_table(events, newest).values()
    people = people_of(events)
    bought = Counter(
        (people[e["user_id"]], e["item_id"]) for e in events if e["event_type"] == "purchase"
    )
    positive = Counter((people[r["user_id"]], r["item_id"]) for r in rows if r["label"])
    assert all(count <= bought[key] for key, count in positive.items())


def people_of(events):
    """User -> a name that all users have whom log-ins link, directly or through others."""
    people = {e["user_id"]: e["user_id"] for e in events}
    for visitor, (shopper, _) in Reference(events, CONFIG).links.items():
        old, new = people[visitor], people[shopper]
        people = {user: new if name == old else name for user, name in people.items()}
    return people


def in_visit(user, us, kind, item="i1", visit="s1"):
    return event(user, us, kind, item, source_session_id=visit)


LATER = event("u9", 99 * DAY, "view")  # so that every label is known
LATER_ROW = ("u9", "i1", 99 * DAY)


def test_a_log_in_in_the_midst_of_a_visit_begins_no_next_session():
    visit = [
        in_visit("a1", 0, "view"),
        in_visit("a1", MINUTE, "add_to_cart"),
        in_visit("u1", 2 * MINUTE, "login"),
        in_visit("u1", 3 * MINUTE, "view", "i2"),
    ]
    before = event("u1", -DAY, "add_to_cart")
    after = event("u1", DAY, "purchase")
    found = label_table([before, *visit, after, LATER])
    assert labels(found)[("u1", "i1", -DAY)] == 0
    assert found["u1", "i1", START - DAY]["next_start_us"] == START
    # One row an item, the shopper's at the end of the visit; none of the visitor's.
    assert labels(found)[("u1", "i1", 3 * MINUTE)] == 1
    assert labels(found)[("u1", "i2", 3 * MINUTE)] == 0
    assert not any(user == "a1" for user, _, _ in found)


def test_what_is_bought_in_the_visit_of_the_log_in_is_no_next_session():
    visit = [
        in_visit("a1", 0, "add_to_cart"),
        in_visit("u1", MINUTE, "login"),
        in_visit("u1", 2 * MINUTE, "purchase"),
    ]
    assert labels(label_table([*visit, LATER])) == {("u1", "i1", 2 * MINUTE): 0, LATER_ROW: None}


def test_an_anonymous_visit_is_decided_by_the_person_who_logs_in_later():
    events = [
        in_visit("a1", 0, "add_to_cart", visit="s0"),
        in_visit("a1", 5 * DAY, "view", "i2"),
        in_visit("u1", 5 * DAY + MINUTE, "login"),
        in_visit("u1", 5 * DAY + 2 * MINUTE, "purchase"),
    ]
    found = label_table([*events, LATER])
    assert labels(found)[("a1", "i1", 0)] == 1
    assert found["a1", "i1", START]["next_start_us"] == START + 5 * DAY


def test_a_log_in_after_a_pause_in_the_same_shop_session_is_the_next_session():
    events = [
        in_visit("a1", 0, "add_to_cart"),
        in_visit("u1", 31 * MINUTE, "login"),
        in_visit("u1", 32 * MINUTE, "purchase"),
    ]
    assert labels(label_table([*events, LATER]))[("a1", "i1", 0)] == 1


def test_what_the_shopper_buys_on_another_device_decides_once_the_link_is_known():
    events = [
        event("a1", 0, "add_to_cart", source_session_id="s1"),
        event("u1", DAY, "purchase"),
        event("u1", 9 * DAY, "login", source_session_id="s1"),
    ]
    row = label_table([*events, LATER])["a1", "i1", START]
    assert (row["label"], row["known_us"]) == (1, START + 9 * DAY)
    unknown = label_table([*events[:2], LATER])["a1", "i1", START]
    assert (unknown["label"], unknown["known_us"]) == (0, START + 30 * DAY)


def test_a_link_beyond_the_horizon_changes_nothing():
    events = [
        event("a1", 0, "add_to_cart", source_session_id="s1"),
        event("u1", DAY, "purchase"),
        event("u1", 31 * DAY, "login", source_session_id="s1"),
    ]
    assert labels(label_table([*events, LATER]))[("a1", "i1", 0)] == 0


def test_two_devices_and_one_purchase_make_one_positive():
    events = [
        event("u1", 0, "add_to_cart"),
        event("a1", DAY, "add_to_cart", source_session_id="s1"),
        event("u1", 2 * DAY, "purchase"),
        event("u1", 3 * DAY, "login", source_session_id="s1"),
    ]
    found = labels(label_table([*events, LATER]))
    assert found[("u1", "i1", 0)] == 1  # known at once
    assert found[("a1", "i1", DAY)] == 0  # known with the log-in


def test_after_the_log_in_the_shopper_logged_out_is_the_shopper():
    events = [
        in_visit("a1", 0, "view", "i2"),
        in_visit("u1", MINUTE, "login"),
        event("u1", DAY, "add_to_cart"),
        event("a1", 2 * DAY, "purchase"),
        event("u1", 3 * DAY, "view"),
    ]
    found = labels(label_table([*events, LATER]))
    assert found[("u1", "i1", DAY)] == 1
    assert found[("a1", "i1", 2 * DAY)] == 0
