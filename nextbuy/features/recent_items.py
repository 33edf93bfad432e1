"""Which items a shopper touched in the latest session: the candidates to score."""

import ibis
import ibis.expr.types as ir

from nextbuy.features.history import user_item_sessions
from nextbuy.features.table import Feature, FeatureTable


def _rows(events: ir.Table, first_us: ir.IntegerScalar | None) -> ir.Table:
    items = user_item_sessions(events)
    # Two items cannot share the number of their last touch: the order is total.
    numbered = ibis.struct({"before": -items.last_number, "item_id": items.item_id})
    ordered = items.group_by(["user_id", "event_us"]).aggregate(numbered=numbered.collect())
    return ordered.mutate(item_ids=ordered.numbered.sort().map(lambda pair: pair.item_id))


TABLE = FeatureTable(
    name="recent_items",
    keys=("user_id",),
    description="Items touched in the shopper's latest session: what to score when a request "
    "names no items.",
    features=(
        Feature(
            "item_ids",
            "array<string>",
            "Items touched in the session, the most recent first",
            unit="id",
            window="session",
        ),
    ),
    rows=_rows,
    in_model=False,
)
