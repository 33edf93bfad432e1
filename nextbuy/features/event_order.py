"""The order of a shop's events: by time, at one moment by type, then by id."""

import ibis
import ibis.expr.types as ir

from nextbuy.events import TYPE_ORDER


def type_rank(events: ir.Table) -> ir.IntegerValue:
    """The place of an event's type among the events of one moment."""
    ranks = ((kind.value, number) for number, kind in enumerate(TYPE_ORDER))
    return events.event_type.cases(*ranks, else_=len(TYPE_ORDER)).cast("int64")


def event_order(events: ir.Table) -> ir.StructValue:
    """One value per event that sorts as the events do; no two are equal."""
    return ibis.struct(
        {"us": events.event_us, "rank": type_rank(events), "event_id": events.event_id}
    )
