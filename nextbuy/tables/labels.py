"""Labels: did the shopper's next session, if it came within the horizon, hold a purchase?"""

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from nextbuy.events import EventType
from nextbuy.features.history import linkable
from nextbuy.features.visits import whole_visits
from nextbuy.log_span import Hole
from nextbuy.shop import LabelConfig, SessionConfig
from nextbuy.tables.next_sessions import next_sessions, next_sessions_over_links, visit_spans


def label_rows(
    events: ir.Table,
    newest_us: int,
    sessions: SessionConfig,
    config: LabelConfig,
    holes: Sequence[Hole] = (),
    has_logins: bool = True,
) -> ir.Table:
    """One row per shopper and item touched in a session, stamped with the session's last event.

    `label` is 1 when the next session starts within the horizon and holds a purchase of the item,
    else 0. It is null as long as that is open: the next session is still running, or none has come
    and the horizon reaches past the newest event. `known_us` is the moment at which the label
    becomes known, whatever it will be: the horizon's end, or earlier when the next session is over.
    `next_start_us` is null if no session starts within the horizon, so that a row holds nothing
    from after it. Whether the shopper comes back is part of the question, never a condition.

    A label whose horizon reaches into a hole of the log is null for good: nobody knows whether the
    shopper came back in it. That holds for those who were seen again before the hole as well, or
    the shoppers who come back soon would be over-represented.

    A visit that a log-in cut in two is one session, the shopper's. Sessions before and after it
    follow each other over the link (`nextbuy.tables.next_sessions`), and one purchase makes one
    row of the item positive: the one whose label was known first.

    Sessions of bots, as known at their end, are left out.

    Args:
        events: the shape of `nextbuy.tables.sessions.SESSION_EVENTS`.
        newest_us: the end of the log.
        sessions: when a session is over.
        config: the horizon.
        holes: those that matter (`nextbuy.log_span.wide_holes`).
        has_logins: whether the log has log-ins, which link ids.

    Returns:
        `user_id, item_id, session_id, category, event_us, next_start_us, known_us, label`.
    """
    if has_logins:
        events = linkable(events, sessions.max_shoppers)
    visits = whole_visits(events, sessions.gap_us) if has_logins else events
    spans = visit_spans(visits)
    if has_logins:
        spans = next_sessions_over_links(spans, events, sessions.gap_us, config.horizon_us)
    else:
        spans = next_sessions(spans)
    comes_back = (spans.next_start_us - spans.event_us <= config.horizon_us).fill_null(False)
    over_us = ibis.greatest(spans.next_end_us + sessions.gap_us, spans.linked_us.fill_null(0))
    spans = spans.mutate(
        comes_back=comes_back,
        known_us=comes_back.ifelse(over_us, spans.event_us + config.horizon_us),
        next_start_us=comes_back.ifelse(spans.next_first_us, None),
        next_session_us=comes_back.ifelse(spans.next_session_us, None),
    )
    with_item = visits.filter(visits.item_id.notnull())
    touched = with_item.group_by(["user_id", "item_id", "session_start_us"]).aggregate(
        category=with_item.category.argmax(
            with_item.event_number, where=with_item.category.notnull()
        ),
        is_bought=(with_item.event_type == EventType.PURCHASE.value).cast("int64").max(),
    )
    rows = touched.inner_join(spans, ["user_id", "session_start_us"])
    rows = rows.filter(~rows.is_bot)
    bought = touched.filter(touched.is_bought == 1).select(
        "item_id",
        next_user_id="user_id",
        next_session_us="session_start_us",
        is_bought_next="is_bought",
    )
    rows = rows.left_join(bought, ["next_user_id", "item_id", "next_session_us"])
    is_positive = rows.comes_back & (rows.is_bought_next == 1).fill_null(False)
    rows = rows.mutate(is_positive=is_positive).drop(
        "next_user_id_right", "item_id_right", "next_session_us_right"
    )
    if has_logins:
        rows = _credited_once(rows)
    is_known = rows.known_us <= newest_us
    for after_us, before_us in holes:
        # A session that began within the horizon may still have run when the hole began.
        until_us = ibis.greatest(rows.event_us + config.horizon_us, rows.known_us)
        is_known &= (rows.event_us >= before_us) | (until_us <= after_us)
    return rows.select(
        "user_id",
        "item_id",
        "session_id",
        "category",
        "event_us",
        "next_start_us",
        "known_us",
        label=is_known.ifelse(rows.is_positive.cast("int8"), ibis.null("int8")),
    )


def known_sql(newest_us: int, config: LabelConfig, holes: Sequence[Hole]) -> str:
    """SQL condition on published labels: the label is known, as `label_rows` decides it."""
    at, known = "epoch_us(event_timestamp)", "epoch_us(known_at)"
    return (
        f"({known} <= {newest_us}"
        + "".join(
            f" AND ({at} >= {before} OR greatest({at} + {config.horizon_us}, {known}) <= {after})"
            for after, before in holes
        )
        + ")"
    )


def _credited_once(rows: ir.Table) -> ir.Table:
    """Of the rows that the same purchase makes positive, leave the one known first; of those, the
    last before the purchase.
    """
    positive = rows.filter(rows.is_positive)
    same = ibis.window(
        group_by=[positive.next_user_id, positive.next_session_us, positive.item_id],
        order_by=[positive.known_us, -positive.event_us, positive.user_id],
    )
    further = positive.mutate(place=ibis.row_number().over(same))
    further = further.filter(further.place > 0)
    further = further.select("user_id", "item_id", "session_start_us", is_further=True)
    rows = rows.left_join(further, ["user_id", "item_id", "session_start_us"])
    is_positive = rows.is_positive & ~rows.is_further.fill_null(False)
    return rows.mutate(is_positive=is_positive).drop(
        "user_id_right", "item_id_right", "session_start_us_right"
    )
