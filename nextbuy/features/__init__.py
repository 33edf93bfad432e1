"""Every feature there is: one file per feature table, each with rows and features."""

from nextbuy.features import category, item, last_event, recent_items, session, user, user_item
from nextbuy.features.table import Feature, FeatureTable

__all__ = ["TABLES", "Feature", "FeatureTable"]

TABLES: tuple[FeatureTable, ...] = (
    user.TABLE,
    session.TABLE,
    item.TABLE,
    category.TABLE,
    user_item.TABLE,
    recent_items.TABLE,
    last_event.TABLE,
)
"""In the order in which they are built and declared."""
