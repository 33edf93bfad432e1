"""The cart goes on over a log-in: by hand, what each id knows of an item, and since when."""

from nextbuy.features import TABLES, supported_tables
from nextbuy.times import DAY, MINUTE, SECOND
from tests.nextbuy.histories import START, computed, event

VISIT = [
    event("a1", 0, "view", "i20", source_session_id="s1", price=1000),
    event("a1", MINUTE, "add_to_cart", "i20", source_session_id="s1", price=900),
    event("u1", 2 * MINUTE, "login", source_session_id="s1"),
]
LOGIN = START + 2 * MINUTE


def shopper_tables(events):
    return computed(events, [table for table in TABLES if "user_id" in table.keys])


def test_who_logs_in_goes_on_with_the_cart():
    found = shopper_tables(VISIT)
    row = found["user_item"]["u1", "i20", LOGIN]
    assert row["is_in_cart"]
    assert (row["n_views"], row["n_carts"], row["n_sessions"]) == (1, 1, 1)
    assert (row["n_views_session"], row["n_carts_session"]) == (1, 1)
    assert row["price"] == 900
    assert (row["seconds_since_cart"], row["seconds_since_first_touch"]) == (60, 120)
    assert (row["first_position_session"], row["n_events_after_session"]) == (1, 1)
    assert found["recent_items"]["u1", LOGIN]["item_ids"] == ["i20"]
    session = found["session"]["u1", LOGIN]
    assert (session["n_events"], session["n_carts"]) == (3, 1)
    assert session["duration_seconds"] == 120


def test_nobody_knew_before_the_log_in():
    earlier = event("u1", -DAY, "view", "i1")
    found = shopper_tables([earlier, *VISIT])
    assert {key for key in found["user_item"] if key[0] == "u1"} == {
        ("u1", "i1", START - DAY),
        ("u1", "i20", LOGIN),
    }
    assert found["user"]["u1", START - DAY]["n_views"] == 1
    assert found["user_item"]["a1", "i20", START + MINUTE]["is_in_cart"]


def test_a_cart_that_the_shopper_bought_is_open_under_neither_id():
    bought = event("u1", 10 * MINUTE, "purchase", "i20", source_session_id="s1")
    rows = shopper_tables([*VISIT, bought])["user_item"]
    for user in ("u1", "a1"):
        row = rows[user, "i20", START + 10 * MINUTE]
        assert not row["is_in_cart"], user
        assert row["n_purchases"] == 1, user
    later = event("u1", 3 * DAY, "purchase", "i20")
    rows = shopper_tables([*VISIT, later])["user_item"]
    assert rows["u1", "i20", LOGIN]["is_in_cart"]
    assert not rows["a1", "i20", START + 3 * DAY]["is_in_cart"]


def test_the_visitor_learns_of_the_items_it_touched_and_of_no_others():
    others = [
        event("u1", 5 * MINUTE, "add_to_cart", "i7"),
        event("u1", 6 * MINUTE, "view", "i20"),
    ]
    rows = shopper_tables([*VISIT, *others])["user_item"]
    assert {item for user, item, _ in rows if user == "a1"} == {"i20"}
    assert rows["a1", "i20", START + 6 * MINUTE]["n_views"] == 1  # its own: no move of the cart


def test_earlier_visits_are_candidates_too():
    yesterday = event("a1", -DAY, "add_to_cart", "i7", source_session_id="s0")
    found = shopper_tables([yesterday, *VISIT])
    assert found["recent_items"]["u1", LOGIN]["item_ids"] == ["i20", "i7"]
    row = found["user_item"]["u1", "i7", LOGIN]
    assert row["is_in_cart"]
    assert row["seconds_since_cart"] == (DAY + 2 * MINUTE) // SECOND
    assert found["user"]["u1", LOGIN]["n_carts"] == 2


def test_a_session_after_the_log_out_is_the_shoppers_past_at_the_next_session():
    out = event("a1", DAY, "add_to_cart", "i3", source_session_id="s2")
    back = event("u1", 2 * DAY, "view", "i1")
    found = shopper_tables([*VISIT, out, back])
    assert found["user_item"]["u1", "i3", START + 2 * DAY]["is_in_cart"]
    assert found["recent_items"]["u1", START + 2 * DAY]["item_ids"] == ["i1", "i3", "i20"]
    assert found["user_item"]["a1", "i3", START + DAY]["is_in_cart"]


def test_a_session_of_another_device_that_still_runs_is_not_counted():
    """Whether it goes on is not known, so no value may depend on it."""
    device = [event("a1", DAY + i * MINUTE, "view", "i3") for i in range(40)]
    meanwhile = event("u1", DAY + 5 * MINUTE, "view", "i1")
    found = shopper_tables([*VISIT, *device, meanwhile])["user"]
    cut = shopper_tables([*VISIT, *device[:6], meanwhile])["user"]
    key = "u1", START + DAY + 5 * MINUTE
    assert found[key] == cut[key]
    assert found[key]["n_views"] == 2


def test_a_second_log_in_goes_on_with_the_visit_as_well():
    again = [
        event("a1", DAY, "add_to_cart", "i3", source_session_id="s2"),
        event("u1", DAY + MINUTE, "login", source_session_id="s2"),
    ]
    found = shopper_tables([*VISIT, *again])
    assert found["user_item"]["u1", "i3", START + DAY + MINUTE]["is_in_cart"]
    assert found["session"]["u1", START + DAY + MINUTE]["n_carts"] == 1


def test_a_log_that_provides_no_log_ins_is_not_searched_for_links():
    tables = {table.name: table for table in supported_tables({"view", "add_to_cart"})}
    assert not any(table.gap_us for table in tables.values())
    found = computed(VISIT, [tables["user_item"]])["user_item"]
    assert {key[0] for key in found} == {"a1"}
