"""What log-ins tell: which visits went on under the shopper's id, and what else was the shopper's.

A log-in is an event of the shopper, so it opens a session of the shopper's id, or falls into one.
If a visitor who is linked to the shopper was in the same shop session up to the log-in, with no
pause that ends a session, both parts are one visit, and the visit is the shopper's. What the
visitor did besides is the shopper's past: known from the log-in on, and not before it is over.
"""

from collections.abc import Callable

import ibis
import ibis.expr.types as ir

from nextbuy.events import EventType
from nextbuy.features.event_order import type_rank
from nextbuy.features.history import links


def visits_gone_on(events: ir.Table, gap_us: int) -> ir.Table:
    """Which session of a visitor goes on in which session of the shopper, by each log-in.

    Args:
        events: the shape of `nextbuy.tables.sessions.SESSION_EVENTS`.
        gap_us: a longer pause ends a session.

    Returns:
        `visitor_id, visitor_start_us`, the visitor's session; `user_id, session_start_us,
        session_id`, the shopper's; `login_us`.
    """
    logins = events.filter(
        (events.event_type == EventType.LOGIN.value) & events.source_session_id.notnull()
    )
    logins = logins.select(
        "user_id", "source_session_id", "session_start_us", "session_id", login_us="event_us"
    )
    seen = events.filter(events.source_session_id.notnull())
    seen = seen.select(
        "source_session_id",
        "event_us",
        visitor_id="user_id",
        visitor_start_us="session_start_us",
    )
    pairs = seen.join(links(events), "visitor_id").join(logins, ["user_id", "source_session_id"])
    pairs = pairs.filter((pairs.event_us <= pairs.login_us) & (pairs.linked_us <= pairs.login_us))
    pairs = pairs.group_by(
        ["visitor_id", "visitor_start_us", "user_id", "session_start_us", "session_id", "login_us"]
    ).aggregate(last_us=pairs.event_us.max())
    return pairs.filter(pairs.login_us - pairs.last_us <= gap_us).drop("last_us")


def moved_events(events: ir.Table, gone_on: ir.Table) -> ir.Table:
    """What visitors did in these visits up to the log-in, as events of the shopper's session.

    An event belongs to the first log-in after it. The numbers are those of the visitor's session.
    """
    columns = [name for name in events.columns if name not in gone_on.columns]
    before = events.select(*columns, visitor_id="user_id", visitor_start_us="session_start_us")
    before = before.join(gone_on, ["visitor_id", "visitor_start_us"])
    before = before.filter(before.event_us <= before.login_us)
    by_event = ibis.window(group_by=before.event_id, order_by=before.login_us)
    before = before.mutate(place=ibis.row_number().over(by_event))
    return before.filter(before.place == 0).select(*events.columns)


def whole_visits(events: ir.Table, gap_us: int) -> ir.Table:
    """Every event once, in the visit it belongs to: those before the log-in are the shopper's."""
    moved = moved_events(events, visits_gone_on(events, gap_us))
    return renumbered(events.anti_join(moved, "event_id").union(moved))


def with_whole_visits(events: ir.Table, gap_us: int) -> ir.Table:
    """The same, and the visitor's session beside it, as it was before the log-in."""
    return renumbered(events.union(moved_events(events, visits_gone_on(events, gap_us))))


def renumbered(events: ir.Table) -> ir.Table:
    """The events, numbered from 1 within their sessions."""
    in_session = ibis.window(
        group_by=[events.user_id, events.session_start_us],
        order_by=[events.event_us, type_rank(events), events.event_id],
    )
    return events.mutate(event_number=ibis.row_number().over(in_session) + 1)


def own_sessions(rows: ir.Table) -> ir.Table:
    """Session rows as `nextbuy.features.windows.as_of` reads them, each requested at its end."""
    return rows.mutate(
        since_us=rows.event_us, known_us=rows.event_us, is_requested=ibis.literal(True)
    )


def known_sessions(
    events: ir.Table, sessions_of: Callable[[ir.Table], ir.Table], gap_us: int | None
) -> ir.Table:
    """Each shopper's session rows, and those of the visitors that log-ins link to them.

    What a visitor did before the log-in, in a visit that went on, is known at the log-in; any other
    session once the pause that ends it is over, so that no row depends on whether it goes on.

    Args:
        events: the shape of `nextbuy.tables.sessions.SESSION_EVENTS`.
        sessions_of: events -> session rows, with the keys of a session and its end `event_us`.
        gap_us: a longer pause ends a session; None for a log without log-ins.

    Returns:
        The rows with `since_us` (when it happened), `known_us` (since when it is known of this
        shopper) and `is_requested` (false for what is linked).
    """
    own = own_sessions(sessions_of(events))
    if gap_us is None:
        return own
    moved = moved_events(events, visits_gone_on(events, gap_us))
    identities = links(events)
    apart = events.semi_join(identities, events.user_id == identities.visitor_id)
    apart = sessions_of(renumbered(apart.anti_join(moved, "event_id")))
    apart = apart.rename(visitor_id="user_id").join(identities, "visitor_id")
    over_us = apart.event_us + gap_us + 1
    apart = apart.mutate(known_us=ibis.greatest(over_us, apart.linked_us))
    before = sessions_of(renumbered(moved))
    # Any moment from the log-in to the end of the visit's session means its end.
    before = before.mutate(known_us=ibis.greatest(before.event_us, before.session_start_us))
    linked = apart.select(*before.columns).union(before)
    linked = linked.mutate(since_us=linked.event_us, is_requested=ibis.literal(False))
    return own.union(linked.select(*own.columns))
