"""Items of two ids that a log-in links: which rows each of them gets for what the other did.

To the shopper, an item of the visitor's is one more item: it has a row at the end of the first
session at which it is known. To the visitor's id, which a shop may go on asking for, the shopper
tells what became of the items it touched: what went into the cart, or left it.
"""

from collections.abc import Collection

import ibis
import ibis.expr.types as ir

from nextbuy.events import EventType
from nextbuy.features.history import CART_MOVES, COUNTED, cart_code, links
from nextbuy.features.windows import next_moments

KEYS = ("user_id", "item_id", "event_us")
MOVES = {name: kind for name, kind in COUNTED.items() if kind in CART_MOVES}
"""Measure -> what moves an item into the cart or out of it."""


def sessions_shown(past: ir.Table, visits: ir.Table, events: ir.Table) -> ir.Table:
    """For each row of a shopper and an item, the session that it tells of.

    Args:
        past: the session rows of shoppers and items, with those that are linked.
        visits: the session rows, visits being whole.
        events: session events.

    Returns:
        as `visits`, `event_us` being the moment of the row; one per shopper, item and moment.
    """
    ends = _session_ends(events)
    linked = at_own_ends(past, events).mutate(place=1)

    reported = visits.filter(sum((visits[name] for name in MOVES), ibis.literal(0)) > 0)
    reported = reported.join(_shared_items(events), ["user_id", "item_id"])
    reported = reported.filter(
        reported.event_us >= ibis.greatest(reported.linked_us, reported.first_us)
    )
    # Where the visitor's own session goes on, its end is the moment to tell.
    following = next_moments(
        reported.select(id="visitor_id", at_us="event_us"),
        ends.select(id="user_id", moment_us="end_us"),
    )
    following = following.join(
        ends, [following.id == ends.user_id, following.moment_us == ends.end_us]
    ).select("id", "at_us", "session_start_us", "moment_us")
    following = following.filter(following.session_start_us <= following.at_us)
    following = following.drop("session_start_us")
    reported = reported.left_join(
        following, [reported.visitor_id == following.id, reported.event_us == following.at_us]
    )
    reported = reported.mutate(
        user_id=reported.visitor_id,
        event_us=reported.moment_us.fill_null(reported.event_us),
        since_us=reported.event_us,
        place=1,
    )
    own = visits.mutate(since_us=visits.event_us, place=0)
    shown = own.union(linked.select(*own.columns)).union(reported.select(*own.columns))
    same = ibis.window(
        group_by=[shown[key] for key in KEYS],
        order_by=[shown.place, -shown.since_us, -shown.session_start_us, shown.session_id],
    )
    shown = shown.mutate(place=ibis.row_number().over(same))
    return shown.filter(shown.place == 0).select(*visits.columns)


def at_own_ends(past: ir.Table, events: ir.Table) -> ir.Table:
    """What of `past` is linked, `event_us` being the first end of a session of the shopper's own id
    at which it is known; what no such end follows is left out.
    """
    linked = past.filter(~past.is_requested)
    known = next_moments(
        linked.select(id="user_id", at_us="known_us"),
        _session_ends(events).select(id="user_id", moment_us="end_us"),
    )
    linked = linked.join(known, [linked.user_id == known.id, linked.known_us == known.at_us])
    return linked.mutate(event_us=linked.moment_us).select(*past.columns)


def _session_ends(events: ir.Table) -> ir.Table:
    sessions = events.group_by(["user_id", "session_start_us"])
    return sessions.aggregate(end_us=events.event_us.max())


def moves_reported(past: ir.Table, sums: Collection[str], events: ir.Table) -> ir.Table:
    """What shoppers put into the cart, took out and bought of the items of their visitors.

    Each event is a row of `past` under the visitor's id, known at once.
    """
    moves = events.filter(events.event_type.isin([kind.value for kind in MOVES.values()]))
    moves = moves.join(_shared_items(events), ["user_id", "item_id"])
    moves = moves.filter(moves.event_us >= ibis.greatest(moves.linked_us, moves.first_us))
    is_bought = moves.event_type == EventType.PURCHASE.value
    return _rows_like(
        past,
        sums,
        moves.select(
            "item_id",
            user_id="visitor_id",
            since_us="event_us",
            known_us="event_us",
            is_requested=ibis.literal(False),
            cart_code=cart_code(moves),
            purchased_us=is_bought.ifelse(moves.event_us, ibis.null("int64")),
            **{n: (moves.event_type == kind.value).cast("int64") for n, kind in MOVES.items()},
        ),
    )


def rows_requested(past: ir.Table, sums: Collection[str], shown: ir.Table) -> ir.Table:
    """Rows of `past` that add nothing and ask for the sums at the moments that are `shown`."""
    own = past.filter(past.is_requested).select("user_id", "item_id", event_us="known_us")
    requested = shown.anti_join(own, KEYS)
    requested = requested.select(
        "user_id",
        "item_id",
        "category",
        "brand",
        since_us="event_us",
        known_us="event_us",
        is_requested=ibis.literal(True),
    )
    return _rows_like(past, sums, requested)


def _rows_like(past: ir.Table, sums: Collection[str], rows: ir.Table) -> ir.Table:
    """The columns of `past`: what is not in `rows` is 0 in a sum, else null."""
    kinds = past.schema()
    return rows.select(
        **{
            name: rows[name]
            if name in rows.columns
            else ibis.literal(0, kind)
            if name in sums
            else ibis.null(kind)
            for name, kind in kinds.items()
        }
    )


def _shared_items(events: ir.Table) -> ir.Table:
    """Items of a shopper's visitors: `user_id, item_id, visitor_id, linked_us, first_us`."""
    touched = events.filter(events.item_id.notnull())
    touched = touched.group_by(["user_id", "item_id"]).aggregate(first_us=touched.event_us.min())
    return touched.rename(visitor_id="user_id").join(links(events), "visitor_id")
