"""When the shopper was last seen: what a request's own features are measured from."""

import ibis.expr.types as ir

from nextbuy.features.table import Feature, FeatureTable
from nextbuy.shop_clock import ShopClock
from nextbuy.times import SECOND


def _rows(
    events: ir.Table, first_us: ir.IntegerScalar | None, clock: ShopClock, gap_us: int | None
) -> ir.Table:
    return events.group_by(["user_id", "session_start_us"]).aggregate(
        event_us=events.event_us.max()
    )


TABLE = FeatureTable(
    name="last_event",
    keys=("user_id",),
    description="The shopper's last event, as of the end of each session.",
    features=(
        Feature(
            "last_event_seconds",
            "int64",
            "Time of the last event, in seconds since 1970",
            lambda t: t.event_us // SECOND,
            unit="seconds",
        ),
    ),
    rows=_rows,
    in_model=False,  # a point in time: a model would learn the calendar
)
