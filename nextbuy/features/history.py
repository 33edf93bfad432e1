"""What happened, gathered per session: the rows that feature tables sum up.

`nextbuy.features.visits` adds what log-ins tell.
"""

import ibis
import ibis.expr.types as ir

from nextbuy.events import TYPE_ORDER, EventType
from nextbuy.features.event_order import type_rank
from nextbuy.times import DAY

COUNTED = {
    "n_views": EventType.VIEW,
    "n_scrolls": EventType.SCROLL,
    "n_carts": EventType.ADD_TO_CART,
    "n_removes": EventType.REMOVE_FROM_CART,
    "n_purchases": EventType.PURCHASE,
}
"""Measure -> the event type it counts."""

DWELL_CAP_US = DAY // 48
"""A pause longer than half an hour says nothing about attention."""


def counts(events: ir.Table) -> dict[str, ir.Value]:
    """The number of events of each type, as aggregates of `events`."""
    return {
        name: (events.event_type == kind.value).cast("int64").sum()
        for name, kind in COUNTED.items()
    }


def user_sessions(events: ir.Table) -> ir.Table:
    """One row per session: its span, its counts, its money.

    Keys `user_id`, `session_start_us`; stamped `event_us`, the time of the last event. `start_us`,
    that of the first, is before the key's where a log-in went on with a visit.
    """
    bought = events.event_type == EventType.PURCHASE.value
    viewed = events.event_type == EventType.VIEW.value
    discounted = (events.discount > 0).cast("int64")
    return events.group_by(["user_id", "session_start_us", "session_id"]).aggregate(
        event_us=events.event_us.max(),
        start_us=events.event_us.min(),
        n_events=events.count(),
        n_items=events.item_id.nunique(),
        n_categories=events.category.nunique(),
        **counts(events),
        spend=_sum(bought, events.price),
        n_priced_purchases=_sum(bought, events.price.notnull()),
        viewed_price=_sum(viewed, events.price),
        n_priced_views=_sum(viewed, events.price.notnull()),
        n_discounted_views=_sum(viewed, discounted),
        n_offered_views=_sum(viewed, events.discount.notnull()),
        n_discounted_purchases=_sum(bought, discounted),
        n_offered_purchases=_sum(bought, events.discount.notnull()),
        is_bot=events.is_bot.cast("int64").max() == 1,
    )


def _sum(where: ir.BooleanValue, value: ir.Value) -> ir.IntegerScalar:
    """The sum over the rows of a kind; a value that is not known adds nothing."""
    return where.ifelse(value.cast("int64").fill_null(0), 0).sum()


CART_MOVES = (EventType.ADD_TO_CART, EventType.REMOVE_FROM_CART, EventType.PURCHASE)
RANKS = 8
"""More than there are types of events."""


def cart_code(events: ir.Table) -> ir.IntegerColumn:
    """Of events that put an item into the cart or take it out, time and type as one integer: that
    of the last one is the largest.
    """
    moves = events.event_type.isin([kind.value for kind in CART_MOVES])
    return moves.ifelse(events.event_us * RANKS + type_rank(events), ibis.null("int64"))


def cart_time_us(code: ir.IntegerValue) -> ir.IntegerValue:
    """When that was."""
    return code // RANKS


def is_in_cart(code: ir.IntegerValue) -> ir.BooleanValue:
    """Whether it put the item in; false where there was none."""
    return (code % RANKS == TYPE_ORDER.index(EventType.ADD_TO_CART)).fill_null(False)


def user_item_sessions(events: ir.Table) -> ir.Table:
    """One row per item touched in a session: counts, attention, order, price, cart.

    Keys `user_id`, `item_id`, `session_start_us`; stamped `event_us`, the end of the session.
    """
    in_session = ibis.window(
        group_by=[events.user_id, events.session_start_us], order_by=events.event_number
    )
    whole = ibis.window(group_by=[events.user_id, events.session_start_us])
    timed = events.mutate(
        dwell_us=ibis.least(
            (events.event_us.lead().over(in_session) - events.event_us).fill_null(0), DWELL_CAP_US
        ),
        session_end_us=events.event_us.max().over(whole),
        session_events=events.event_number.max().over(whole),
    )
    touched = timed.filter(timed.item_id.notnull())
    number, price, discount = touched.event_number, touched.price, touched.discount
    viewed = touched.event_type == EventType.VIEW.value
    offered = price + discount > 0  # both known
    return touched.group_by(["user_id", "item_id", "session_start_us", "session_id"]).aggregate(
        event_us=touched.session_end_us.max(),
        session_events=touched.session_events.max(),
        **counts(touched),
        n_events=touched.count(),
        dwell_us=touched.dwell_us.sum(),
        first_touch_us=touched.event_us.min(),
        last_touch_us=touched.event_us.max(),
        first_number=touched.event_number.min(),
        last_number=touched.event_number.max(),
        category=touched.category.argmax(number, where=touched.category.notnull()),
        brand=touched.brand.argmax(number, where=touched.brand.notnull()),
        price=price.argmax(number, where=price.notnull()),
        first_price=price.argmin(number, where=price.notnull()),
        first_price_us=price.notnull().ifelse(touched.event_us, None).min(),
        offered_price=price.argmax(number, where=offered),
        offered_discount=discount.argmax(number, where=offered),
        viewed_price=_sum(viewed, price),
        n_priced_views=_sum(viewed, price.notnull()),
        cart_code=cart_code(touched).max(),
        is_bot=touched.is_bot.cast("int64").max() == 1,
    )


def crowded_sessions(events: ir.Table, max_shoppers: int) -> ir.Table:
    """The shop sessions that stop to be one: since when more than `max_shoppers` have used the id.

    A shop that sends "0" or "null" for want of a session gives that id to everybody. Who logs in
    there says nothing of the others. The bound looks at no later event, so that a link once made
    does not vanish. Only shop sessions with a log-in matter. Columns `source_session_id`,
    `crowded_us`.
    """
    named = events.filter(events.source_session_id.notnull())
    logins = named.filter(named.event_type == EventType.LOGIN.value)
    logins = logins.select("source_session_id").distinct()
    visits = named.semi_join(logins, "source_session_id")
    visits = visits.group_by(["source_session_id", "user_id"]).aggregate(
        first_us=visits.event_us.min()
    )
    in_order = ibis.window(
        group_by=visits.source_session_id, order_by=[visits.first_us, visits.user_id]
    )
    numbered = visits.mutate(number=ibis.row_number().over(in_order))
    beyond = numbered.filter(numbered.number == max_shoppers)  # the first one is number 0
    return beyond.select("source_session_id", crowded_us=beyond.first_us)


def linkable(events: ir.Table, max_shoppers: int) -> ir.Table:
    """The events without the shop sessions that stopped to be one (`crowded_sessions`).

    Whatever reads log-ins reads these: all events have to be at hand to know the crowd.
    """
    crowded = crowded_sessions(events, max_shoppers)
    joined = events.left_join(crowded, "source_session_id")
    is_session = joined.crowded_us.isnull() | (joined.event_us < joined.crowded_us)
    shop_session = is_session.ifelse(joined.source_session_id, None)
    columns = [name for name in events.columns if name != "source_session_id"]
    return joined.select(*columns, source_session_id=shop_session).select(*events.columns)


def links(events: ir.Table) -> ir.Table:
    """Which anonymous visitor turned out to be which shopper, and since when that is known.

    A log-in names the shopper; the other visitors of the same shop session, up to then, were the
    same person. A visitor who had logged in before, in whatever shop session, is a shopper, not an
    anonymous past. The first log-in counts. Columns `visitor_id`, `user_id`, `linked_us`.

    Args:
        events: as `linkable` gives them.
    """
    logins = events.filter(events.event_type == EventType.LOGIN.value)
    logins = logins.select("user_id", "source_session_id", login_us=logins.event_us)
    first_login = logins.group_by("user_id").aggregate(first_login_us=logins.login_us.min())
    visits = events.filter(events.source_session_id.notnull())
    visits = visits.group_by(["user_id", "source_session_id"]).aggregate(
        first_us=visits.event_us.min()
    )
    visits = visits.rename(visitor_id="user_id")
    pairs = visits.join(logins, "source_session_id").filter(
        lambda t: (t.visitor_id != t.user_id) & (t.first_us <= t.login_us)
    )
    first_login = first_login.rename(visitor_id="user_id")
    pairs = pairs.left_join(first_login, "visitor_id")
    pairs = pairs.filter(pairs.first_login_us.isnull() | (pairs.first_login_us > pairs.login_us))
    earliest = pairs.mutate(
        linked_us=pairs.login_us.min().over(ibis.window(group_by=pairs.visitor_id))
    )
    earliest = earliest.filter(earliest.login_us == earliest.linked_us)
    return earliest.group_by(["visitor_id", "linked_us"]).aggregate(user_id=earliest.user_id.min())
