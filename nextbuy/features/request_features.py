"""What depends on the request itself: computed when it comes, never stored.

    at_request({"request_seconds": [1_704_103_200], "last_event_seconds": [1_704_103_140],
                "shown_price": [900], "price": [1000]})

History and service run the same function through Feast's on-demand feature view. In history the
request is the row: its event timestamp, and the price at the session's end.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from nextbuy.features.table import Feature, FeatureTable
from nextbuy.shop_clock import UTC_CLOCK, ShopClock
from nextbuy.times import SECOND

NAME = "at_request"
DESCRIPTION = "What depends on the request: its moment, and the price that it shows."

REQUEST = {
    "request_seconds": "Moment of the request, in seconds since 1970",
    "shown_price": "Price that the shopper sees now, in cents; may be missing",
}
"""What a request brings (64-bit integers) -> what it means."""

READS = {"last_event": "last_event_seconds", "item": "price"}
"""Feature table -> the feature of it that is read."""

_Row = Mapping[str, int | None]


def _since_last_event(row: _Row, _: ShopClock) -> int | None:
    now, then = row["request_seconds"], row["last_event_seconds"]
    # A clock that runs behind must not tell of a time before the last event.
    return None if now is None or then is None else max(0, now - then)


def _hour(row: _Row, clock: ShopClock) -> int | None:
    now = row["request_seconds"]
    return None if now is None else clock.hour(now * SECOND)


def _weekday(row: _Row, clock: ShopClock) -> int | None:
    now = row["request_seconds"]
    return None if now is None else clock.weekday(now * SECOND)


def _price(row: _Row, _: ShopClock) -> float | None:
    shown, usual = row["shown_price"], row["price"]
    return None if shown is None or not usual else shown / usual


def _feature(name: str, dtype: str, description: str, unit: str, *needs: str) -> Feature:
    return Feature(name, dtype, description, unit=unit, window="request", needs=frozenset(needs))


FEATURES: Mapping[Feature, Callable[[_Row, ShopClock], float | None]] = {
    _feature(
        "seconds_since_last_event", "int64", "Since the shopper's last event", "seconds"
    ): _since_last_event,
    _feature("request_hour", "int64", "Hour of the request by the shop's clock", "hour"): _hour,
    _feature(
        "request_weekday",
        "int64",
        "Weekday of the request by the shop's clock; Monday is 0",
        "day",
    ): _weekday,
    _feature(
        "rate_price_now",
        "float64",
        "Price shown now against the item's price of the last midnight",
        "ratio",
        "price",
    ): _price,
}


def supported_by(tables: Collection[FeatureTable]) -> list[Feature]:
    """The features that these tables can support."""
    return [f for f in FEATURES if set(f.needs) <= set(sources(tables).values())]


def sources(tables: Collection[FeatureTable]) -> dict[str, str]:
    """What of `READS` these tables have."""
    has = {(table.name, feature.name) for table in tables for feature in table.features}
    return dict(each for each in READS.items() if each in has)


def at_request(
    inputs: Mapping[str, Sequence[Any]], clock: ShopClock = UTC_CLOCK
) -> dict[str, list[Any]]:
    """Columns of `REQUEST` and of the features read -> columns of `FEATURES`, row by row.

    A log without prices has no `price`, and the features that need it are left out.
    """
    names = [name for name in (*REQUEST, *READS.values()) if name in inputs]
    rows = [
        dict(zip(names, values, strict=True))
        for values in zip(*(inputs[name] for name in names), strict=True)
    ]
    return {
        feature.name: [compute(row, clock) for row in rows]
        for feature, compute in FEATURES.items()
        if set(feature.needs) <= set(names)
    }
