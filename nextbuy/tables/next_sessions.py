"""Which session follows which, for ids that log-ins link to one person.

Without a link, the next session of an id is its next one. A link adds the sessions that are known
to be the same person's: to a visitor those of the shopper, if the log-in came while the label was
open; to a shopper those that a visitor began after the log-in. What a visitor did before the
log-in under its own id was nobody's next session but its own, as a label that is known stays.
"""

import ibis
import ibis.expr.types as ir

from nextbuy.features.history import links
from nextbuy.features.visits import visits_gone_on, whole_visits
from nextbuy.features.windows import next_moments

NEXT = ("next_user_id", "next_session_us", "next_start_us", "next_first_us", "next_end_us")
"""The session that follows: its id and `session_start_us`, the moment at which it begins for the
one before, the first event of the whole visit, the last; null where none does."""


def next_sessions(spans: ir.Table) -> ir.Table:
    """Add `NEXT` and `linked_us`, of spans whose ids nothing links.

    Args:
        spans: `user_id, session_start_us, event_us`, its first event `first_us`, its last.
    """
    in_order = ibis.window(group_by=spans.user_id, order_by=spans.session_start_us)
    start_us = spans.session_start_us.lead().over(in_order)
    return spans.mutate(
        next_user_id=spans.user_id,
        next_session_us=start_us,
        next_start_us=start_us,
        next_first_us=start_us,
        next_end_us=spans.event_us.lead().over(in_order),
        linked_us=ibis.null("int64"),
    )


def next_sessions_over_links(
    spans: ir.Table, events: ir.Table, gap_us: int, horizon_us: int
) -> ir.Table:
    """Add `NEXT`, and `linked_us` where it was a log-in at that moment that revealed it.

    Args:
        spans: as for `next_sessions`; visits that a log-in cut in two are whole.
        events: the events of the spans, as they were before.
        gap_us: a longer pause ends a session.
        horizon_us: a label is known by then.
    """
    identities = links(events)
    people = identities.select(user_id="visitor_id").union(identities.select("user_id")).distinct()
    alone = next_sessions(spans.anti_join(people, "user_id"))
    linked = spans.semi_join(people, "user_id")
    linked = following(linked, linked, events, gap_us, horizon_us)
    return alone.union(linked.select(*alone.columns))


def following(
    rows: ir.Table, spans: ir.Table, events: ir.Table, gap_us: int, horizon_us: int
) -> ir.Table:
    """Add to rows of any ids and moments, `user_id, event_us`, which of the spans follows.

    For the result and the other arguments, see `next_sessions_over_links`.
    """
    spans = _with_person(spans, events)
    # The log-in's session holds this visitor's part of the visit: it begins no new one.
    spans = spans.mutate(start_us=ibis.greatest(spans.session_start_us, spans.first_us))
    of_id = _targets(spans, "user_id").union(_parts_gone_on(spans, events, gap_us))
    # A visitor's own next session is known anyway; the shopper's others are once the link is.
    known = spans.filter(spans.linked_us.isnull() | (spans.start_us >= spans.linked_us))
    of_person = _targets(known, "person_id").union(_targets(spans, "user_id")).distinct()
    columns = rows.columns
    rows = _with_person(rows, events)
    rows = _with_first_after(rows, "user_id", of_id, "own")
    rows = _with_first_after(rows, "person_id", of_person, "other")

    end_us = rows.event_us + horizon_us
    comes_back = (rows.own_next_start_us <= end_us).fill_null(False)
    known_us = comes_back.ifelse(rows.own_next_end_us + gap_us, end_us)
    over_link = (
        rows.other_next_start_us.notnull()
        & (rows.own_next_start_us.isnull() | (rows.other_next_start_us < rows.own_next_start_us))
        & (rows.linked_us.isnull() | (rows.linked_us <= ibis.least(known_us, end_us)))
    )
    chosen = {n: over_link.ifelse(rows[f"other_{n}"], rows[f"own_{n}"]) for n in NEXT}
    # Two devices at once: the visit may have begun before this session was over.
    chosen["next_first_us"] = ibis.greatest(chosen["next_first_us"], rows.event_us + 1)
    linked_us = over_link.ifelse(rows.linked_us, ibis.null("int64"))
    return rows.select(*columns, **chosen, linked_us=linked_us)


def sessions_after(requests: ir.Table, events: ir.Table, gap_us: int, horizon_us: int) -> ir.Table:
    """Which session follows the one in which each request came.

    Args:
        requests: `user_id`, `at_us`.
        events: the shape of `nextbuy.tables.sessions.SESSION_EVENTS`.
        gap_us: a longer pause ends a session.
        horizon_us: a label is known by then.

    Returns:
        `user_id`, `at_us` and `NEXT`, once each.
    """
    requests = requests.distinct()
    parts = visits_gone_on(events, gap_us).rename(shopper_id="user_id")
    joined = requests.left_join(
        parts,
        [
            requests.user_id == parts.visitor_id,
            requests.at_us >= parts.visitor_start_us,
            requests.at_us <= parts.login_us,
        ],
    )
    first = ibis.window(group_by=[joined.user_id, joined.at_us], order_by=joined.login_us)
    rows = joined.mutate(place=ibis.row_number().over(first))
    rows = rows.filter(rows.place == 0)
    # In the midst of a visit that went on under the shopper's id, what follows is after all of it.
    rows = rows.select(
        "at_us",
        requested_id="user_id",
        user_id=rows.shopper_id.fill_null(rows.user_id),
        event_us=ibis.greatest(rows.at_us, rows.session_start_us.fill_null(rows.at_us)),
    )
    rows = following(rows, visit_spans(whole_visits(events, gap_us)), events, gap_us, horizon_us)
    return rows.select("at_us", *NEXT, user_id="requested_id")


def visit_spans(visits: ir.Table) -> ir.Table:
    """The sessions of events, or visits: their keys, first and last event, whether a bot's."""
    return visits.group_by(["user_id", "session_start_us", "session_id"]).aggregate(
        event_us=visits.event_us.max(),
        first_us=visits.event_us.min(),
        is_bot=visits.is_bot.cast("int64").max() == 1,
    )


def _with_person(rows: ir.Table, events: ir.Table) -> ir.Table:
    """Add whose the id is, `person_id`, and since when a log-in tells so, `linked_us`."""
    identities = links(events).rename(person_id="user_id")
    joined = rows.left_join(identities, rows.user_id == identities.visitor_id)
    person_id = joined.person_id.fill_null(joined.user_id)
    return joined.select(*rows.columns, "linked_us", person_id=person_id)


def _targets(rows: ir.Table, chain: str) -> ir.Table:
    """The sessions that may follow one of the same `chain`."""
    return rows.select(
        chain=chain,
        next_user_id="user_id",
        next_session_us="session_start_us",
        next_start_us="start_us",
        next_first_us="first_us",
        next_end_us="event_us",
    )


def _parts_gone_on(rows: ir.Table, events: ir.Table, gap_us: int) -> ir.Table:
    """The same for a visitor whose session became a part of a visit of the shopper."""
    parts = visits_gone_on(events, gap_us).drop("session_id", "login_us").distinct()
    whole = rows.select("user_id", "session_start_us", "first_us", "event_us")
    parts = parts.join(whole, ["user_id", "session_start_us"])
    return parts.select(
        chain="visitor_id",
        next_user_id="user_id",
        next_session_us="session_start_us",
        next_start_us="visitor_start_us",
        next_first_us="first_us",
        next_end_us="event_us",
    )


def _with_first_after(rows: ir.Table, chain: str, targets: ir.Table, prefix: str) -> ir.Table:
    """Add the first of the chain's targets that starts after the row's `event_us`."""
    after = next_moments(
        rows.select(id=chain, at_us="event_us"),
        targets.select(id="chain", moment_us="next_start_us"),
        pause=1,
    )
    same = ibis.window(
        group_by=[targets.chain, targets.next_start_us],
        order_by=[targets.next_user_id, targets.next_session_us],
    )
    firsts = targets.mutate(place=ibis.row_number().over(same))
    firsts = firsts.filter(firsts.place == 0)
    after = after.join(firsts, [after.id == firsts.chain, after.moment_us == firsts.next_start_us])
    after = after.select(
        chain_id="id", ended_us="at_us", **{f"{prefix}_{n}": after[n] for n in NEXT}
    )
    joined = rows.left_join(after, [rows[chain] == after.chain_id, rows.event_us == after.ended_us])
    return joined.drop("chain_id", "ended_us")
