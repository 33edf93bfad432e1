"""The shopper, as of the end of each session."""

from functools import partial

import ibis
import ibis.expr.types as ir

from nextbuy.features.history import user_sessions
from nextbuy.features.local_time import hour_of, local_us, weekday_of
from nextbuy.features.table import Feature, FeatureTable, ratio, windowed
from nextbuy.features.visits import known_sessions
from nextbuy.features.windows import as_of
from nextbuy.shop_clock import ShopClock
from nextbuy.times import SECOND

ALL = ("", "_1d", "_7d", "_30d")
CARTS = frozenset({"add_to_cart"})
REMOVES = CARTS | {"remove_from_cart"}
PURCHASES = frozenset({"purchase"})
PRICE = frozenset({"price"})
DISCOUNT = frozenset({"discount"})


def _sessions(events: ir.Table, clock: ShopClock) -> ir.Table:
    sessions = user_sessions(events)
    in_order = ibis.window(group_by=sessions.user_id, order_by=sessions.event_us)
    sessions = sessions.mutate(entered_us=local_us(sessions.start_us, clock))
    hour, weekday = hour_of(sessions.entered_us), weekday_of(sessions.entered_us)
    had_cart = sessions.n_carts > 0
    return sessions.mutate(
        n_sessions=ibis.literal(1, "int64"),
        n_weekend_sessions=(weekday >= 5).cast("int64"),
        n_night_sessions=(hour < 6).cast("int64"),
        n_evening_sessions=(hour >= 18).cast("int64"),
        n_cart_sessions=had_cart.cast("int64"),
        n_abandoned_sessions=(had_cart & (sessions.n_purchases == 0)).cast("int64"),
        purchased_us=(sessions.n_purchases > 0).ifelse(sessions.event_us, ibis.null("int64")),
        negative_us=-sessions.event_us,  # its maximum is the earliest session
        previous_us=sessions.event_us.lag().over(in_order),
    )


def _rows(
    events: ir.Table, first_us: ir.IntegerScalar | None, clock: ShopClock, gap_us: int | None
) -> ir.Table:
    windows: dict[str, tuple[str, ...]] = dict.fromkeys(
        ("n_sessions", "n_views", "n_carts", "n_removes", "n_purchases", "spend"), ALL
    )
    lifetime: dict[str, tuple[str, ...]] = dict.fromkeys(
        (
            "n_priced_purchases",
            "viewed_price",
            "n_priced_views",
            "n_discounted_views",
            "n_offered_views",
            "n_discounted_purchases",
            "n_offered_purchases",
            "n_weekend_sessions",
            "n_night_sessions",
            "n_evening_sessions",
            "n_cart_sessions",
            "n_abandoned_sessions",
        ),
        ("",),
    )
    past = known_sessions(events, partial(_sessions, clock=clock), gap_us)
    rows = as_of(
        past.mutate(previous_us=past.is_requested.ifelse(past.previous_us, None)),
        ["user_id"],
        sums=windows | lifetime,
        maxima=("purchased_us", "negative_us", "previous_us"),
        first_us=first_us,
    )
    return rows.mutate(first_session_us=-rows.negative_us)


TABLE = FeatureTable(
    name="user",
    keys=("user_id",),
    description="What a shopper did over all sessions, as of the end of each session.",
    features=(
        *windowed("n_sessions", "Sessions", ALL),
        *windowed("n_views", "Item views", ALL),
        *windowed("n_carts", "Items put into the cart", ALL, needs=CARTS),
        *windowed("n_removes", "Items taken out of the cart", ALL, needs=REMOVES),
        *windowed("n_purchases", "Items bought", ALL, needs=PURCHASES),
        *windowed("spend", "Money spent", ALL, unit="cents", needs=PURCHASES | PRICE),
        Feature(
            "rate_purchase",
            "float64",
            "Items bought per item viewed",
            lambda t: ratio(t.n_purchases, t.n_views),
            unit="share",
            needs=PURCHASES,
        ),
        Feature(
            "rate_purchase_30d",
            "float64",
            "Items bought per item viewed in the last 30 days",
            lambda t: ratio(t.n_purchases_30d, t.n_views_30d),
            unit="share",
            window="30d",
            needs=PURCHASES,
        ),
        Feature(
            "rate_cart",
            "float64",
            "Items put into the cart per item viewed",
            lambda t: ratio(t.n_carts, t.n_views),
            unit="share",
            needs=CARTS,
        ),
        Feature(
            "rate_abandoned",
            "float64",
            "Share of the sessions with a filled cart that ended without a purchase",
            lambda t: ratio(t.n_abandoned_sessions, t.n_cart_sessions),
            unit="share",
            needs=CARTS | PURCHASES,
        ),
        Feature(
            "seconds_since_first_session",
            "int64",
            "Time since the end of the first session known",
            lambda t: (t.event_us - t.first_session_us) // SECOND,
            unit="seconds",
            grows=True,
        ),
        Feature(
            "seconds_since_previous_session",
            "int64",
            "Time since the end of the session before this one",
            lambda t: (t.event_us - t.previous_us) // SECOND,
            unit="seconds",
        ),
        Feature(
            "seconds_since_purchase",
            "int64",
            "Time since the end of the last session with a purchase",
            lambda t: (t.event_us - t.purchased_us) // SECOND,
            unit="seconds",
            grows=True,
            needs=PURCHASES,
        ),
        Feature(
            "mean_session_gap_seconds",
            "float64",
            "Mean time from one session's end to the next one's",
            lambda t: ratio(t.event_us - t.first_session_us, (t.n_sessions - 1) * SECOND),
            unit="seconds",
        ),
        Feature(
            "mean_viewed_price",
            "float64",
            "Mean price of the items viewed, where it is known",
            lambda t: ratio(t.viewed_price, t.n_priced_views),
            unit="cents",
            needs=PRICE,
        ),
        Feature(
            "mean_bought_price",
            "float64",
            "Mean price of the items bought, where it is known",
            lambda t: ratio(t.spend, t.n_priced_purchases),
            unit="cents",
            needs=PRICE | PURCHASES,
        ),
        Feature(
            "rate_discounted_views",
            "float64",
            "Share of the views that showed a discount, of those where it is known",
            lambda t: ratio(t.n_discounted_views, t.n_offered_views),
            unit="share",
            needs=DISCOUNT,
        ),
        Feature(
            "rate_discounted_purchases",
            "float64",
            "Share of the purchases made at a discount, of those where it is known",
            lambda t: ratio(t.n_discounted_purchases, t.n_offered_purchases),
            unit="share",
            needs=DISCOUNT | PURCHASES,
        ),
        Feature(
            "rate_weekend_sessions",
            "float64",
            "Share of the sessions that began on Saturday or Sunday, by the shop's clock",
            lambda t: ratio(t.n_weekend_sessions, t.n_sessions),
            unit="share",
        ),
        Feature(
            "rate_night_sessions",
            "float64",
            "Share of the sessions that began before 06:00 by the shop's clock",
            lambda t: ratio(t.n_night_sessions, t.n_sessions),
            unit="share",
        ),
        Feature(
            "rate_evening_sessions",
            "float64",
            "Share of the sessions that began from 18:00 on, by the shop's clock",
            lambda t: ratio(t.n_evening_sessions, t.n_sessions),
            unit="share",
        ),
    ),
    rows=_rows,
)
