"""Every feature there is: one file per feature table, each with rows and features."""

from collections.abc import Collection

from nextbuy.features import category, item, last_event, recent_items, session, user, user_item
from nextbuy.features.table import Feature, FeatureTable

__all__ = ["TABLES", "Feature", "FeatureTable", "supported_tables"]

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


def supported_tables(provides: Collection[str] | None) -> tuple[FeatureTable, ...]:
    """The feature tables that a log can support, each with the features that it can.

    Args:
        provides: optional columns and event types of the log, as the manifests of events and
            sessions name them; None where nothing was ingested yet: then every table there is.
    """
    if provides is None:
        return TABLES
    return tuple(table for each in TABLES if (table := each.supported_by(provides)).features)
