from hypothesis import given, settings

from nextbuy.times import DAY, MINUTE, SECOND
from tests.nextbuy.histories import CONFIG, START, event, histories, sessionized
from tests.nextbuy.reference import Reference


def cuts(events):
    return [(row["user_id"], row["session_start_us"] - START) for row in sessionized(events)]


def test_a_pause_of_exactly_the_gap_stays_in_the_session():
    assert cuts([event("u1", 0, "view"), event("u1", 30 * MINUTE, "view")]) == [("u1", 0)] * 2


def test_a_microsecond_more_opens_a_new_session():
    late = 30 * MINUTE + 1
    assert cuts([event("u1", 0, "view"), event("u1", late, "view")]) == [("u1", 0), ("u1", late)]


def test_a_session_crosses_midnight():
    before, after = DAY - MINUTE, DAY + MINUTE
    assert cuts([event("u1", before, "view"), event("u1", after, "view")]) == [("u1", before)] * 2


def test_shoppers_do_not_share_sessions():
    assert cuts([event("u1", 0, "view"), event("u2", 1, "view")]) == [("u1", 0), ("u2", 1)]


def test_an_id_does_not_change_when_events_are_added_later():
    first = [event("u1", 0, "view")]
    more = [*first, event("u1", MINUTE, "purchase"), event("u1", DAY, "view")]
    assert sessionized(first)[0]["session_id"] == sessionized(more)[0]["session_id"]


def test_ids_of_different_shoppers_differ_even_when_their_names_run_together():
    # Without a separator "u1" at 11 and "u11" at 1 would be one text.
    ids = {row["session_id"] for u in ("u1", "u11") for row in sessionized([event(u, 0, "view")])}
    assert len(ids) == 2


def test_a_bot_is_known_from_the_event_that_breaks_the_rule():
    burst = [event("u1", i * SECOND // 2, "view", f"i{i}") for i in range(CONFIG.bot_burst_events)]
    flags = [row["is_bot"] for row in sessionized([*burst, event("u1", DAY, "view")])]
    assert flags == [False] * (CONFIG.bot_burst_events - 1) + [True, True]


@settings(max_examples=50, deadline=None, derandomize=True)
@given(histories())
def test_sessions_agree_with_the_slow_reference(events):
    reference = Reference(events, CONFIG)
    rows = sessionized(events)
    wanted = [
        (user, s.start, number + 1, e["event_id"], e["event_id"] in reference.bots)
        for user, own in reference.sessions.items()
        for s in own
        for number, e in enumerate(s.events)
    ]
    names = ("user_id", "session_start_us", "event_number", "event_id", "is_bot")
    assert [tuple(row[name] for name in names) for row in rows] == wanted
