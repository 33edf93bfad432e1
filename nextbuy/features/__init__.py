"""Every feature there is: one file per feature table, each with rows and features."""

from collections.abc import Collection
from dataclasses import replace

from nextbuy.features import category, item, last_event, recent_items, session, user, user_item
from nextbuy.features.table import Feature, FeatureTable
from nextbuy.shop import SessionConfig

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


def supported_tables(
    provides: Collection[str] | None, gap_us: int = SessionConfig().gap_us
) -> tuple[FeatureTable, ...]:
    """The feature tables that a log can support, each with the features that it can.

    Args:
        provides: optional columns and event types of the log, as the manifests of events and
            sessions name them; None where nothing was ingested yet: then every table there is.
        gap_us: the pause that ends a session; what is computed over a log-in depends on it.
    """
    if provides is None:
        return tuple(replace(table, gap_us=gap_us) for table in TABLES)
    supported = (table.supported_by(provides, gap_us) for table in TABLES)
    return tuple(table for table in supported if table.features)
