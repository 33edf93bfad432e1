"""One shopper and one item: this session and everything before, as of the session's end."""

import ibis
import ibis.expr.types as ir

from nextbuy.features.daily import MONEY
from nextbuy.features.history import cart_time_us, is_in_cart, user_item_sessions
from nextbuy.features.linked_items import moves_reported, rows_requested, sessions_shown
from nextbuy.features.table import Feature, FeatureTable, ratio, windowed
from nextbuy.features.visits import known_sessions, with_whole_visits
from nextbuy.features.windows import as_of
from nextbuy.shop_clock import ShopClock
from nextbuy.times import END_OF_TIME_US, SECOND

SESSIONS = ("", "_7d", "_30d")
CODE = "decimal(38, 0)"

CARTS = frozenset({"add_to_cart"})
REMOVES = CARTS | {"remove_from_cart"}
PURCHASES = frozenset({"purchase"})
PRICE = frozenset({"price"})


def _sessions(events: ir.Table) -> ir.Table:
    touched = user_item_sessions(events)
    return touched.mutate(
        n_sessions=ibis.literal(1, "int64"),
        negative_us=-touched.first_touch_us,  # its maximum is the first touch ever
        purchased_us=(touched.n_purchases > 0).ifelse(touched.event_us, ibis.null("int64")),
        # Too many digits for an integer: a time and an amount, so that the earliest is largest.
        first_price_code=(END_OF_TIME_US - touched.first_price_us).cast(CODE)
        * ibis.literal(MONEY, "int64").cast(CODE)
        + touched.first_price,
    )


def _rows(
    events: ir.Table, first_us: ir.IntegerScalar | None, clock: ShopClock, gap_us: int | None
) -> ir.Table:
    sums: dict[str, tuple[str, ...]] = {
        "n_sessions": SESSIONS,
        "n_views": SESSIONS,
        **dict.fromkeys(("n_scrolls", "n_carts", "n_removes", "n_purchases"), ("",)),
        "dwell_us": ("",),
    }
    maxima = ("negative_us", "purchased_us", "cart_code", "first_price_code")
    priced = ("n_events", "viewed_price", "n_priced_views")
    past = known_sessions(events, _sessions, gap_us)
    shown = user_item_sessions(events if gap_us is None else with_whole_visits(events, gap_us))
    if gap_us is not None:
        shown = sessions_shown(past, shown, events)
        added = {*sums, *priced}
        reported = moves_reported(past, added, events).union(rows_requested(past, added, shown))
        past = past.union(reported)
    rows = as_of(past, ["user_id", "item_id"], sums=sums, maxima=maxima, first_us=first_us)
    now = shown.select(
        "user_id", "item_id", "event_us", "category", "brand", "price",
        "offered_price", "offered_discount",
        "last_touch_us", "first_number", "last_number", "session_events",
        **{f"{name}_session": shown[name] for name in (
            "n_views", "n_scrolls", "n_carts", "n_removes", "n_purchases", "n_events", "dwell_us",
        )},
    )  # fmt: skip
    rows = rows.inner_join(now, ["user_id", "item_id", "event_us"])
    rows = _beside(rows, past, "user", [], priced, first_us)
    rows = _beside(rows, past, "category", ["category"], ("n_events",), first_us)
    return _beside(rows, past, "brand", ["brand"], ("n_events",), first_us)


def _beside(
    rows: ir.Table,
    past: ir.Table,
    name: str,
    keys: list[str],
    measures: tuple[str, ...],
    first_us: ir.IntegerScalar | None,
) -> ir.Table:
    """Add the shopper's own sums over a wider circle of items, at the same moments."""
    keyed = past.filter([past[key].notnull() for key in keys]) if keys else past
    sums = dict.fromkeys(measures, ("",))
    wider = as_of(keyed, ["user_id", *keys], sums, first_us=first_us)
    wider = wider.select(
        "user_id", *keys, "event_us", **{f"{name}_{m}": wider[m] for m in measures}
    )
    joined = rows.left_join(wider, ["user_id", *keys, "event_us"])
    return joined.select(*(rows[c] for c in rows.columns), *(f"{name}_{m}" for m in measures))


def _in_cart(t: ir.Table) -> ir.Value:
    return is_in_cart(t.cart_code)


def _in_session(name: str, description: str, *needs: str) -> Feature:
    return Feature(
        f"{name}_session",
        "int64",
        f"{description} in the session",
        window="session",
        needs=frozenset(needs),
    )


TABLE = FeatureTable(
    name="user_item",
    keys=("user_id", "item_id"),
    description="What a shopper did with an item, as of the end of each session that touched it.",
    features=(
        _in_session("n_views", "Views of the item"),
        _in_session("n_scrolls", "Scrolls on the item", "scroll"),
        _in_session("n_carts", "Times put into the cart", "add_to_cart"),
        _in_session("n_removes", "Times taken out of the cart", *REMOVES),
        _in_session("n_purchases", "Times bought", "purchase"),
        Feature(
            "dwell_seconds_session",
            "int64",
            "Time from the item's events to the event after each, in the session",
            lambda t: t.dwell_us_session // SECOND,
            unit="seconds",
            window="session",
        ),
        Feature(
            "rate_events_session",
            "float64",
            "Share of the session's events that were about the item",
            lambda t: ratio(t.n_events_session, t.session_events),
            unit="share",
            window="session",
        ),
        Feature(
            "first_position_session",
            "int64",
            "Number of the session's event that first touched the item",
            lambda t: t.first_number,
            unit="position",
            window="session",
        ),
        Feature(
            "n_events_after_session",
            "int64",
            "Events of the session after the item was last touched",
            lambda t: t.session_events - t.last_number,
            window="session",
        ),
        Feature(
            "seconds_since_touch",
            "int64",
            "From the item's last event to the end of the session",
            lambda t: (t.event_us - t.last_touch_us) // SECOND,
            unit="seconds",
            window="session",
        ),
        *windowed("n_sessions", "Sessions that touched the item", SESSIONS),
        *windowed("n_views", "Views of the item", SESSIONS),
        *windowed("n_scrolls", "Scrolls on the item", ("",), needs={"scroll"}),
        *windowed("n_carts", "Times put into the cart", ("",), needs=CARTS),
        *windowed("n_removes", "Times taken out of the cart", ("",), needs=REMOVES),
        *windowed("n_purchases", "Times bought", ("",), needs=PURCHASES),
        Feature(
            "dwell_seconds",
            "int64",
            "Time spent on the item so far",
            lambda t: t.dwell_us // SECOND,
            unit="seconds",
            grows=True,
        ),
        Feature(
            "is_in_cart",
            "boolean",
            "The item was put into the cart and neither taken out nor bought since",
            _in_cart,
            unit="flag",
            needs=CARTS,
        ),
        Feature(
            "is_removed",
            "boolean",
            "The item was taken out of the cart and not put back",
            lambda t: (t.n_removes > 0) & ~_in_cart(t),
            unit="flag",
            needs=REMOVES,
        ),
        Feature(
            "seconds_since_cart",
            "int64",
            "Since the item last entered or left the cart",
            lambda t: (t.event_us - cart_time_us(t.cart_code)) // SECOND,
            unit="seconds",
            needs=CARTS,
        ),
        Feature(
            "seconds_since_first_touch",
            "int64",
            "Since the shopper first touched the item",
            lambda t: (t.event_us + t.negative_us) // SECOND,
            unit="seconds",
            grows=True,
        ),
        Feature(
            "seconds_since_purchase",
            "int64",
            "Since the end of the last session in which the shopper bought the item",
            lambda t: (t.event_us - t.purchased_us) // SECOND,
            unit="seconds",
            grows=True,
            needs=PURCHASES,
        ),
        Feature(
            "price",
            "int64",
            "Price last seen by the shopper in the session",
            unit="cents",
            window="session",
            needs=PRICE,
        ),
        Feature(
            "rate_discount",
            "float64",
            "Share of the list price taken off when last seen in the session",
            lambda t: ratio(t.offered_discount, t.offered_price + t.offered_discount),
            unit="share",
            window="session",
            needs=PRICE | {"discount"},
        ),
        Feature(
            "rate_price_first",
            "float64",
            "Price against the price when the shopper first saw the item",
            lambda t: ratio(t.price, (t.first_price_code % MONEY).cast("int64")),
            unit="ratio",
            needs=PRICE,
        ),
        Feature(
            "rate_price_usual",
            "float64",
            "Price against the mean price of what the shopper views",
            lambda t: ratio(t.price * t.user_n_priced_views, t.user_viewed_price),
            unit="ratio",
            needs=PRICE,
        ),
        Feature(
            "rate_category",
            "float64",
            "Share of the shopper's events that were about the item's category",
            lambda t: ratio(t.category_n_events, t.user_n_events),
            unit="share",
            needs={"category"},
        ),
        Feature(
            "rate_brand",
            "float64",
            "Share of the shopper's events that were about the item's brand",
            lambda t: ratio(t.brand_n_events, t.user_n_events),
            unit="share",
            needs={"brand"},
        ),
    ),
    rows=_rows,
)
