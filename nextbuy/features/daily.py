"""Sums per item or category as of each midnight: what was over by then, never the day itself.

A table is sparse: a row stands only where something changed (a day of activity, or a day that
left a window), which is all that an as-of join needs.
"""

from collections.abc import Collection

import ibis
import ibis.expr.types as ir

from nextbuy.events import EventType
from nextbuy.features.event_order import event_order
from nextbuy.features.history import counts
from nextbuy.features.local_time import local_us, midnight
from nextbuy.features.windows import WINDOWS, at_every_change, not_before
from nextbuy.shop_clock import ShopClock
from nextbuy.times import DAY

ALL = ("", "_1d", "_7d", "_30d")
USER_WINDOWS = ("_7d", "_30d")
REACH_DAYS = 31
"""Days before a midnight that its row depends on: the longest window and the day that just left it.
Earlier days count only through the carried features."""
DIGITS = 6
"""Width of a day's number in a code that sorts as text; enough for the year 4707."""
AMOUNTS = ("price", "discount", "offered_price", "offered_discount")
"""What is kept as last seen; the offered ones are of the last event that has both."""
MONEY = 2**41  # cents stay below this, so a moment and an amount fit one sortable integer


def daily(
    events: ir.Table,
    key: str,
    first_us: ir.IntegerScalar | None,
    clock: ShopClock,
    attributes: Collection[str] = (),
) -> ir.Table:
    """Window counts of `key` as of each midnight at which one of them changes.

    A day, and the midnight that ends it, are by the shop's clock: a day may have 23 or 25 hours.
    Bots' events, and events without the key, are left out. Returns `key`, `event_us` (a
    midnight), counts per window, distinct users per window, and, as last seen, `AMOUNTS` and each
    attribute (a text).
    """
    shopping = events.filter(events[key].notnull() & ~events.is_bot)
    shopping = shopping.mutate(day=local_us(shopping.event_us, clock) // DAY)
    order = event_order(shopping)
    price, discount = shopping.price, shopping.discount
    offered = price + discount > 0  # both known
    viewed = shopping.event_type == EventType.VIEW.value
    per_day = shopping.group_by([key, "day"]).aggregate(
        **counts(shopping),
        viewed_price=viewed.ifelse(price.fill_null(0), 0).sum(),
        n_priced_views=(viewed & price.notnull()).cast("int64").sum(),
        price=price.argmax(order, where=price.notnull()),
        discount=discount.argmax(order, where=discount.notnull()),
        offered_price=price.argmax(order, where=offered),
        offered_discount=discount.argmax(order, where=offered),
        **{
            name: shopping[name].argmax(order, where=shopping[name].notnull())
            for name in attributes
        },
    )
    # A day's number before the text: the latest sorts last.
    day = per_day.day.cast("string").lpad(DIGITS, "0")
    per_day = per_day.mutate(
        known_us=midnight(per_day.day + 1, clock),
        **{f"{name}_code": per_day.day * MONEY + per_day[name] for name in AMOUNTS},
        **{f"{name}_code": day + per_day[name] for name in attributes},
    )
    counted = at_every_change(
        per_day,
        [key],
        sums={
            **dict.fromkeys(("n_views", "n_carts", "n_removes", "n_purchases"), ALL),
            **dict.fromkeys(("viewed_price", "n_priced_views"), ("_30d",)),
        },
        leaves_us=lambda suffix: midnight(per_day.day + 1 + _days(suffix), clock),
        maxima=[f"{name}_code" for name in (*AMOUNTS, *attributes)],
        first_us=first_us,
    )
    users = _distinct_users(shopping, key, first_us, clock)
    rows = counted.left_join(users, [key, "event_us"]).select(
        *(counted[name] for name in counted.columns),
        *(f"gained{suffix}" for suffix in USER_WINDOWS),
    )
    so_far = ibis.cumulative_window(group_by=key, order_by="event_us")
    return rows.mutate(
        **{
            f"n_users{suffix}": rows[f"gained{suffix}"].fill_null(0).sum().over(so_far)
            for suffix in USER_WINDOWS
        },
        **{name: rows[f"{name}_code"] % MONEY for name in AMOUNTS},
        **{name: rows[f"{name}_code"].substr(DIGITS) for name in attributes},
    )


def _days(suffix: str) -> int:
    """The length of a window."""
    return (WINDOWS[suffix] or 0) // DAY


def _distinct_users(
    shopping: ir.Table, key: str, first_us: ir.IntegerScalar | None, clock: ShopClock
) -> ir.Table:
    """Change of the number of distinct users per window, per key and midnight.

    A user active on day d counts at the midnights d+1 to d+w. The user enters where the active
    day before does not reach, and leaves at d+w+1 unless a later day carries on; that later day
    is over by then, so nothing ahead of the midnight is used.
    """
    days = shopping.select(key, "user_id", "day").distinct()
    in_order = ibis.window(group_by=[key, "user_id"], order_by="day")
    days = days.mutate(before=days.day.lag().over(in_order), after=days.day.lead().over(in_order))
    changes = []
    for suffix in USER_WINDOWS:
        length = _days(suffix)
        entering = days.filter(days.before.isnull() | (days.before + length < days.day))
        leaving = days.filter(days.after.isnull() | (days.after > days.day + length))
        for rows, shift, step in ((entering, 1, 1), (leaving, length + 1, -1)):
            changes.append(
                rows.select(
                    key,
                    event_us=not_before(midnight(rows.day + shift, clock), first_us),
                    **{
                        f"gained{other}": ibis.literal(step if other == suffix else 0, "int64")
                        for other in USER_WINDOWS
                    },
                )
            )
    united = ibis.union(*changes)
    return united.group_by([key, "event_us"]).aggregate(
        **{
            f"gained{suffix}": united[f"gained{suffix}"].sum().cast("int64")
            for suffix in USER_WINDOWS
        }
    )
