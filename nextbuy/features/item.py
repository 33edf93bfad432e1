"""The item, as of each midnight."""

import ibis
import ibis.expr.types as ir

from nextbuy.features.daily import ALL, daily
from nextbuy.features.table import Feature, FeatureTable, ratio, windowed
from nextbuy.shop_clock import ShopClock


def _rows(
    events: ir.Table, first_us: ir.IntegerScalar | None, clock: ShopClock, gap_us: int | None
) -> ir.Table:
    rows = daily(events, "item_id", first_us, clock, attributes=("category", "brand"))
    list_price = rows.offered_price + rows.offered_discount
    return rows.mutate(rate_discount=ratio(rows.offered_discount, list_price))


PRIOR_VIEWS = 20
"""Views that an item starts with: with one purchase among them, a conversion of 5 %."""


TABLE = FeatureTable(
    name="item",
    keys=("item_id",),
    description="Popularity and price of an item, as of midnight by the shop's clock; the day "
    "itself is not in.",
    features=(
        Feature(
            "category",
            "string",
            "Category last seen",
            unit="id",
            needs={"category"},
            carry="last",
        ),
        Feature(
            "brand",
            "string",
            "Brand last seen",
            unit="id",
            needs={"brand"},
            carry="last",
        ),
        *windowed("n_views", "Views by all shoppers", ALL),
        *windowed("n_carts", "Times put into a cart", ALL, needs={"add_to_cart"}),
        *windowed("n_removes", "Times taken out of a cart", ALL, needs={"remove_from_cart"}),
        *windowed("n_purchases", "Times bought", ALL, needs={"purchase"}),
        *windowed("n_users", "Distinct shoppers", ("_7d", "_30d")),
        Feature(
            "rate_purchase_30d",
            "float64",
            f"Purchases per view in the last 30 days, with a prior of 1 in {PRIOR_VIEWS}",
            lambda t: ratio(t.n_purchases_30d + 1, t.n_views_30d + PRIOR_VIEWS),
            unit="share",
            window="30d",
            needs={"purchase"},
        ),
        Feature(
            "rate_cart_30d",
            "float64",
            f"Times put into a cart per view in the last 30 days, prior 1 in {PRIOR_VIEWS}",
            lambda t: ratio(t.n_carts_30d + 1, t.n_views_30d + PRIOR_VIEWS),
            unit="share",
            window="30d",
            needs={"add_to_cart"},
        ),
        Feature(
            "rate_views_trend",
            "float64",
            "Views a day in the last 7 days against the last 30 days",
            lambda t: ratio(t.n_views_7d * 30, t.n_views_30d * 7),
            unit="ratio",
            window="30d",
        ),
        Feature(
            "price",
            "int64",
            "Price last seen",
            unit="cents",
            needs={"price"},
            carry="last",
        ),
        Feature(
            "discount",
            "int64",
            "Discount last seen",
            unit="cents",
            needs={"discount"},
            carry="last",
        ),
        Feature(
            "rate_price",
            "float64",
            "Price last seen against its mean in the last 30 days",
            lambda t: ratio(t.price * t.n_priced_views_30d, t.viewed_price_30d),
            unit="ratio",
            window="30d",
            needs={"price"},
        ),
        Feature(
            "rate_discount",
            "float64",
            "Share of the list price taken off when last seen",
            lambda t: ibis.coalesce(
                ratio(t.offered_discount, t.offered_price + t.offered_discount), t.rate_discount
            ),
            unit="share",
            needs={"price", "discount"},
            carry="last",
        ),
    ),
    rows=_rows,
)
