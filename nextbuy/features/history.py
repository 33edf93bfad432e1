"""What happened, gathered per session: the rows that feature tables sum up.

`*_history` adds what is known of a shopper from before a log-in: sessions of the anonymous
visitors that the log-in links, known from the moment of the log-in and never before.
"""

import ibis
import ibis.expr.types as ir

from nextbuy.events import EventType
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

    Keys `user_id`, `session_start_us`; stamped `event_us`, the time of the last event.
    """
    bought = events.event_type == EventType.PURCHASE.value
    viewed = events.event_type == EventType.VIEW.value
    discounted = (events.discount > 0).cast("int64")
    return events.group_by(["user_id", "session_start_us", "session_id"]).aggregate(
        event_us=events.event_us.max(),
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
    offered = price.notnull() & discount.notnull()
    added = touched.event_type == EventType.ADD_TO_CART.value
    left = touched.event_type.isin([EventType.REMOVE_FROM_CART.value, EventType.PURCHASE.value])
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
        # The last event that put the item into the cart or took it out, as one sortable integer:
        # its time and, in the lowest bit, whether the item stayed in.
        cart_code=(touched.event_us * 2 + added.cast("int64")).argmax(number, where=added | left),
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


def with_linked_past(rows: ir.Table, events: ir.Table) -> ir.Table:
    """Add to each shopper's session rows those of the visitors a log-in linked to them.

    Adds `since_us` (when it happened), `known_us` (when it became known of this shopper) and
    `is_requested` (false for the linked past, which has no row of its own under this shopper).
    """
    own = rows.mutate(
        since_us=rows.event_us, known_us=rows.event_us, is_requested=ibis.literal(True)
    )
    linked = rows.rename(visitor_id="user_id").join(links(events), "visitor_id")
    linked = linked.mutate(
        since_us=linked.event_us,
        known_us=ibis.greatest(linked.event_us, linked.linked_us),
        is_requested=ibis.literal(False),
    )
    return own.union(linked.select(*own.columns))
