"""Which items a shopper touched lately: the candidates to score."""

import ibis
import ibis.expr.types as ir

from nextbuy.features.history import user_item_sessions
from nextbuy.features.linked_items import at_own_ends
from nextbuy.features.table import Feature, FeatureTable
from nextbuy.features.visits import known_sessions, with_whole_visits
from nextbuy.shop_clock import ShopClock
from nextbuy.times import DAY

MAX_ITEMS = 100
"""Items of a row at most: the most recent ones."""
MAX_SESSIONS = 30
"""How many sessions an item stays listed without being touched again, the one that touched it
included. Without a bound, a shopper who never rests would cost the product of their sessions and
their items."""
MAX_DAYS = 90
"""How many days it stays listed. Which of them are scored, the horizon of the labels decides."""


def _rows(
    events: ir.Table, first_us: ir.IntegerScalar | None, clock: ShopClock, gap_us: int | None
) -> ir.Table:
    sessions = _numbered_sessions(events)
    visits = events if gap_us is None else with_whole_visits(events, gap_us)
    touched = user_item_sessions(visits).rename(since_us="event_us").mutate(is_linked=0)
    touched = touched.inner_join(sessions, ["user_id", "session_start_us"])
    if gap_us is not None:
        linked = at_own_ends(known_sessions(events, user_item_sessions, gap_us), events)
        linked = linked.drop("session_start_us").mutate(is_linked=1)
        linked = linked.inner_join(sessions, ["user_id", "event_us"])
        touched = touched.union(linked.select(*touched.columns))
    of_item = ibis.window(
        group_by=[touched.user_id, touched.item_id],
        order_by=[touched.number, -touched.is_linked, touched.since_us, touched.last_number],
    )
    end = touched.last_number_within + 1
    # The touch stands in the lists of these sessions: from its own to the item's next one.
    listed = ibis.range(
        touched.number, ibis.least(touched.number.lead().over(of_item).fill_null(end), end)
    )
    listed = touched.select(
        "user_id",
        number=listed.unnest(),
        # Two items of a session cannot share the number of their last touch: the order is total.
        touch=ibis.struct(
            {
                "session": -touched.number,
                "linked": touched.is_linked,
                "end": -touched.since_us,
                "event": -touched.last_number,
                "item_id": touched.item_id,
            }
        ),
    )
    lists = listed.group_by(["user_id", "number"]).aggregate(touches=listed.touch.collect())
    lists = lists.mutate(item_ids=lists.touches.sort()[:MAX_ITEMS].map(lambda touch: touch.item_id))
    return lists.inner_join(sessions, ["user_id", "number"])


def _numbered_sessions(events: ir.Table) -> ir.Table:
    """Each shopper's sessions, numbered in their order, with the last one that a touch reaches."""
    sessions = events.group_by(["user_id", "session_start_us"]).aggregate(
        event_us=events.event_us.max()
    )
    in_order = ibis.window(group_by=sessions.user_id, order_by=sessions.session_start_us)
    sessions = sessions.mutate(number=ibis.row_number().over(in_order))
    soon = ibis.range_window(
        group_by=sessions.user_id, order_by="event_us", preceding=0, following=MAX_DAYS * DAY
    )
    return sessions.mutate(
        last_number_within=ibis.least(
            sessions.number.max().over(soon), sessions.number + (MAX_SESSIONS - 1)
        )
    )


TABLE = FeatureTable(
    name="recent_items",
    keys=("user_id",),
    description="Items that the shopper touched lately, as of the end of each session: what to "
    "score when a request names no items.",
    features=(
        Feature(
            "item_ids",
            "array<string>",
            f"Items touched in the last {MAX_SESSIONS} sessions and {MAX_DAYS} days, the most "
            f"recent first, {MAX_ITEMS} at most",
            unit="id",
            window=f"{MAX_DAYS} days",
        ),
    ),
    rows=_rows,
    in_model=False,
)
