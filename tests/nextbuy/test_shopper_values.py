"""Values as the shopper would say them, worked out by hand: first, last, mean, in the cart."""

import pytest

from nextbuy.features import TABLES
from nextbuy.shop import SessionConfig
from nextbuy.times import DAY, MINUTE, SECOND
from tests.nextbuy import histories
from tests.nextbuy.histories import START, computed, event, sessionized

BY_NAME = {table.name: table for table in TABLES}


def rows(table, events):
    return computed(events, [BY_NAME[table]])[table]


def last(table, events):
    """The newest row."""
    return max(rows(table, events).items(), key=lambda item: item[0][-1])[1]


def test_a_mean_divides_by_what_has_a_price():
    events = [
        event("ann", 0, "view", price=1000),
        event("ann", SECOND, "view", "i2"),
        event("ann", 2 * SECOND, "purchase", price=1000),
        event("ann", 3 * SECOND, "purchase", "i2"),
    ]
    user = last("user", events)
    assert (user["mean_bought_price"], user["mean_viewed_price"]) == (1000.0, 1000.0)


def test_a_share_of_discounts_is_of_the_views_where_a_discount_is_known():
    events = [event("ann", i * SECOND, "view", discount=d) for i, d in enumerate([None, 0, 500])]
    assert last("user", events)["rate_discounted_views"] == 0.5


@pytest.mark.parametrize(
    ("kinds", "is_in_cart", "is_removed"),
    [
        (["add_to_cart", "purchase"], False, False),
        (["add_to_cart", "remove_from_cart"], False, True),
        (["view", "add_to_cart"], True, False),
    ],
)
@pytest.mark.parametrize("ids", ["ab", "ba"])
def test_at_one_moment_the_cart_is_filled_before_it_is_emptied(kinds, is_in_cart, is_removed, ids):
    events = [event("ann", 0, kind, event_id=i) for kind, i in zip(kinds, ids, strict=True)]
    row = last("user_item", events)
    assert (row["is_in_cart"], row["is_removed"]) == (is_in_cart, is_removed)


def test_taken_out_and_put_back_is_in_the_cart():
    kinds = ["add_to_cart", "remove_from_cart", "add_to_cart"]
    events = [event("ann", i * SECOND, kind) for i, kind in enumerate(kinds)]
    assert last("user_item", events)["is_in_cart"]


def test_the_first_price_is_that_of_the_first_event_with_one():
    events = [
        event("ann", 0, "view"),
        event("ann", SECOND, "view", price=1000),
        event("ann", 5 * MINUTE, "view", price=1200),
        event("ann", 50 * MINUTE, "view", price=2000),  # another session of the same hour
    ]
    values = [row["rate_price_first"] for _, row in sorted(rows("user_item", events).items())]
    assert values == [1.2, 2.0]


def test_the_usual_price_takes_each_view_at_its_own_price():
    events = [event("dan", i * MINUTE, "view", price=p) for i, p in enumerate([1000, 1200])]
    assert last("user_item", events)["rate_price_usual"] == pytest.approx(1200 / 1100)


def test_a_discount_goes_with_the_price_it_was_shown_with():
    events = [
        event("ann", 0, "view", price=800, discount=200),
        event("ann", SECOND, "view", price=5000),
    ]
    assert last("user_item", events)["rate_discount"] == 0.2
    assert last("item", events)["rate_discount"] == 0.2


def test_what_an_item_was_last_seen_with_is_the_last_event_s():
    events = [
        event("ann", 100_000, "view", category="shoes", brand="zeta", price=3000),
        event("bob", 900_000, "view", category="boots", brand="acme", price=2000),
    ]
    row = last("item", events)
    assert (row["category"], row["brand"], row["price"]) == ("boots", "acme", 2000)


def test_pauses_below_a_second_are_pauses():
    events = [event("ann", i * 900_000, "view", f"i{i}") for i in range(3)]
    assert last("session", events)["mean_pause_seconds"] == 0.9


def test_the_lines_of_one_order_are_one_moment(monkeypatch):
    monkeypatch.setattr(histories, "CONFIG", SessionConfig())
    histories._sessions_sql.cache_clear()
    try:
        order = [event("gro", 0, "purchase", f"i{i}") for i in range(2000)]
        clicks = [event("bot", i * SECOND // 2, "view", f"i{i}") for i in range(60)]
        bots = {row["user_id"] for row in sessionized([*order, *clicks]) if row["is_bot"]}
    finally:
        histories._sessions_sql.cache_clear()
    assert bots == {"bot"}
    assert START % DAY == 0
