"""The shopper's latest session, as of its end."""

import ibis.expr.types as ir

from nextbuy.features.history import user_sessions
from nextbuy.features.local_time import hour_of, local_us, weekday_of
from nextbuy.features.table import Feature, FeatureTable, ratio
from nextbuy.features.visits import with_whole_visits
from nextbuy.shop_clock import ShopClock
from nextbuy.times import SECOND


def _rows(
    events: ir.Table, first_us: ir.IntegerScalar | None, clock: ShopClock, gap_us: int | None
) -> ir.Table:
    sessions = user_sessions(events if gap_us is None else with_whole_visits(events, gap_us))
    return sessions.mutate(
        duration_us=sessions.event_us - sessions.start_us,
        entered_us=local_us(sessions.start_us, clock),
    )


def _counted(name: str, description: str, *needs: str) -> Feature:
    return Feature(name, "int64", description, window="session", needs=frozenset(needs))


TABLE = FeatureTable(
    name="session",
    keys=("user_id",),
    description="The shopper's latest session, as of its last event.",
    features=(
        _counted("n_events", "Events in the session"),
        _counted("n_views", "Item views in the session"),
        _counted("n_scrolls", "Scrolls in the session", "scroll"),
        _counted("n_carts", "Items put into the cart in the session", "add_to_cart"),
        _counted("n_removes", "Items taken out of the cart in the session", "remove_from_cart"),
        _counted("n_purchases", "Items bought in the session", "purchase"),
        _counted("n_items", "Distinct items touched in the session"),
        _counted("n_categories", "Distinct categories touched in the session", "category"),
        Feature(
            "duration_seconds",
            "int64",
            "From the first to the last event of the session",
            lambda t: t.duration_us // SECOND,
            unit="seconds",
            window="session",
        ),
        Feature(
            "mean_pause_seconds",
            "float64",
            "Mean time between two events of the session",
            lambda t: ratio(t.duration_us, (t.n_events - 1) * SECOND),
            unit="seconds",
            window="session",
        ),
        Feature(
            "entry_hour",
            "int64",
            "Hour of the day, by the shop's clock, in which the session began",
            lambda t: hour_of(t.entered_us),
            unit="hour",
            window="session",
        ),
        Feature(
            "entry_weekday",
            "int64",
            "Weekday, by the shop's clock, on which the session began; Monday is 0",
            lambda t: weekday_of(t.entered_us),
            unit="day",
            window="session",
        ),
    ),
    rows=_rows,
)
