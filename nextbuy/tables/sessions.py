"""Sessions: a shopper's events, cut where nothing happened for a while.

Definitions are Ibis expressions over integers (microseconds since 1970, cents), because integer
arithmetic gives equal values on DuckDB and on Spark.
"""

import ibis
import ibis.expr.types as ir

from nextbuy.events import COMPUTED_SCHEMA
from nextbuy.features.event_order import type_rank
from nextbuy.shop import SessionConfig
from nextbuy.times import SECOND

EVENTS = ibis.table(ibis.Schema.from_pyarrow(COMPUTED_SCHEMA), name="events")
"""The canonical events as definitions see them."""


def sessionize(events: ir.Table, config: SessionConfig) -> ir.Table:
    """Give every event its session: `session_start_us`, `session_id`, `event_number`, `is_bot`.

    One shopper's events are ordered by time, at one moment by type, then by id. A session is known
    by its shopper and its first moment, so its id does not change when events are added after it.
    `is_bot` is what was known at the moment of the event: a shopper counts as a bot from the first
    event that breaks a rule, never before it. Moments count for it, not events: the lines of
    one order share theirs.

    Args:
        events: the shape of `EVENTS`, event ids unique.
        config: gap and bot rules.
    """
    events = events.mutate(type_rank=type_rank(events))
    order = ["event_us", "type_rank", "event_id"]
    by_user = ibis.window(group_by=events.user_id, order_by=order)
    marked = events.mutate(previous_us=events.event_us.lag().over(by_user))
    is_start = (
        marked.previous_us.isnull() | (marked.event_us - marked.previous_us > config.gap_us)
    ).ifelse(marked.event_us, None)
    so_far = ibis.cumulative_window(group_by=marked.user_id, order_by=order)
    cut = marked.mutate(session_start_us=is_start.max().over(so_far)).drop("previous_us")

    in_session = ibis.window(group_by=[cut.user_id, cut.session_start_us], order_by=order)
    by_time = ibis.window(group_by=[cut.user_id, cut.session_start_us], order_by="event_us")
    numbered = cut.mutate(
        event_number=ibis.row_number().over(in_session) + 1,
        moments=ibis.dense_rank().over(by_time) + 1,
    )
    elapsed = numbered.event_us - numbered.session_start_us
    burst = (numbered.moments >= config.bot_burst_events) & (
        numbered.moments * SECOND >= elapsed * config.bot_events_per_second
    )
    breaks_rule = (burst | (numbered.moments >= config.bot_session_events)).cast("int64")
    so_far = ibis.cumulative_window(group_by=numbered.user_id, order_by=order)
    known = numbered.mutate(
        is_bot=breaks_rule.max().over(so_far) == 1,
        session_id=(numbered.user_id + "|" + numbered.session_start_us.cast("string")).hexdigest(
            "md5"
        ),
    )
    return known.drop("type_rank", "moments")


SESSION_EVENTS = ibis.table(sessionize(EVENTS, SessionConfig()).schema(), name="session_events")
"""Events with their session, the input of every feature table."""


MOMENTS = {"event_us": "event_time", "session_start_us": "session_start"}
"""Column as definitions name it, in microseconds -> the published timestamp."""


def session_event_columns() -> str:
    """Columns of published sessions as definitions name and type them, for DuckDB."""
    return ", ".join(
        f"epoch_us({MOMENTS[name]}) AS {name}" if name in MOMENTS else name
        for name in SESSION_EVENTS.columns
    )
