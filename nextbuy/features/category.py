"""The category, as of each midnight."""

import ibis.expr.types as ir

from nextbuy.features.daily import ALL, daily
from nextbuy.features.item import PRIOR_VIEWS
from nextbuy.features.table import Feature, FeatureTable, ratio, windowed
from nextbuy.shop_clock import ShopClock


def _rows(
    events: ir.Table, first_us: ir.IntegerScalar | None, clock: ShopClock, gap_us: int | None
) -> ir.Table:
    return daily(events, "category", first_us, clock)


CATEGORY = frozenset({"category"})

TABLE = FeatureTable(
    name="category",
    keys=("category",),
    description="Popularity of a category, as of midnight by the shop's clock; the day itself is "
    "not in.",
    features=(
        *windowed("n_views", "Views by all shoppers", ALL, needs=CATEGORY),
        *windowed("n_carts", "Times put into a cart", ALL, needs=CATEGORY | {"add_to_cart"}),
        *windowed("n_purchases", "Times bought", ALL, needs=CATEGORY | {"purchase"}),
        *windowed("n_users", "Distinct shoppers", ("_7d", "_30d"), needs=CATEGORY),
        Feature(
            "rate_purchase_30d",
            "float64",
            f"Purchases per view in the last 30 days, with a prior of 1 in {PRIOR_VIEWS}",
            lambda t: ratio(t.n_purchases_30d + 1, t.n_views_30d + PRIOR_VIEWS),
            unit="share",
            window="30d",
            needs=CATEGORY | {"purchase"},
        ),
    ),
    rows=_rows,
    in_model=False,  # a request names shopper and items; the category is not known before the read
)
