"""Labels: did the shopper's next session, if it came within the horizon, hold a purchase?"""

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from nextbuy.events import EventType
from nextbuy.log_span import Hole
from nextbuy.shop import LabelConfig, SessionConfig


def label_rows(
    events: ir.Table,
    newest_us: int,
    sessions: SessionConfig,
    config: LabelConfig,
    holes: Sequence[Hole] = (),
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

    Sessions of bots, as known at their end, are left out.

    Args:
        events: the shape of `nextbuy.tables.sessions.SESSION_EVENTS`.
        newest_us: the end of the log.
        sessions: when a session is over.
        config: the horizon.
        holes: those that matter (`nextbuy.log_span.wide_holes`).

    Returns:
        `user_id, item_id, session_id, category, event_us, next_start_us, known_us, label`.
    """
    spans = events.group_by(["user_id", "session_start_us", "session_id"]).aggregate(
        event_us=events.event_us.max(), is_bot=events.is_bot.cast("int64").max() == 1
    )
    in_order = ibis.window(group_by=spans.user_id, order_by=spans.session_start_us)
    spans = spans.mutate(
        next_start_us=spans.session_start_us.lead().over(in_order),
        next_end_us=spans.event_us.lead().over(in_order),
    )
    comes_back = (spans.next_start_us - spans.event_us <= config.horizon_us).fill_null(False)
    spans = spans.mutate(
        comes_back=comes_back,
        known_us=comes_back.ifelse(
            spans.next_end_us + sessions.gap_us, spans.event_us + config.horizon_us
        ),
        next_start_us=comes_back.ifelse(spans.next_start_us, None),
    )
    with_item = events.filter(events.item_id.notnull())
    touched = with_item.group_by(["user_id", "item_id", "session_start_us"]).aggregate(
        category=with_item.category.argmax(
            with_item.event_number, where=with_item.category.notnull()
        ),
        is_bought=(with_item.event_type == EventType.PURCHASE.value).cast("int64").max(),
    )
    rows = touched.inner_join(spans, ["user_id", "session_start_us"])
    rows = rows.filter(~rows.is_bot)
    bought = touched.filter(touched.is_bought == 1).select(
        "user_id", "item_id", next_start_us="session_start_us", is_bought_next="is_bought"
    )
    rows = rows.left_join(bought, ["user_id", "item_id", "next_start_us"])
    is_known = rows.known_us <= newest_us
    for after_us, before_us in holes:
        # A session that began within the horizon may still have run when the hole began.
        until_us = ibis.greatest(rows.event_us + config.horizon_us, rows.known_us)
        is_known &= (rows.event_us >= before_us) | (until_us <= after_us)
    is_positive = rows.comes_back & (rows.is_bought_next == 1).fill_null(False)
    return rows.select(
        "user_id",
        "item_id",
        "session_id",
        "category",
        "event_us",
        "next_start_us",
        "known_us",
        label=is_known.ifelse(is_positive.cast("int8"), ibis.null("int8")),
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
