"""The shop's clock in definitions: hours, days and midnights as Ibis expressions.

Integers, like every moment in a definition; under UTC nothing is added to the arithmetic.
"""

from collections.abc import Sequence

import ibis
import ibis.expr.types as ir

from nextbuy.shop_clock import ShopClock, Step
from nextbuy.times import DAY, HOUR


def local_us(moment: ir.IntegerValue, clock: ShopClock) -> ir.IntegerValue:
    """What the clock shows at a moment in microseconds, see `ShopClock.local_us`."""
    return _plus(moment, clock.offsets, 1, moment)


def midnight(day: ir.IntegerValue, clock: ShopClock) -> ir.IntegerValue:
    """The moment at which a day begins, see `ShopClock.midnight`."""
    return _plus(day * DAY, clock.leads, -1, day)


def hour_of(local: ir.IntegerValue) -> ir.IntegerValue:
    """The hour of a time that the clock shows."""
    return local % DAY // HOUR


def weekday_of(local: ir.IntegerValue) -> ir.IntegerValue:
    """The weekday of a time that the clock shows; Monday is 0."""
    return (local // DAY + 3) % 7  # 1970-01-01 was a Thursday


def _plus(
    value: ir.IntegerValue, steps: Sequence[Step], sign: int, position: ir.IntegerValue
) -> ir.IntegerValue:
    if len(steps) == 1:
        return value + sign * steps[0].value if steps[0].value else value
    return value + _chosen(steps, sign, position)


def _chosen(steps: Sequence[Step], sign: int, position: ir.IntegerValue) -> ir.IntegerValue:
    """The value of the step that a position is in, by halving: a zone has a hundred."""
    if len(steps) == 1:
        return ibis.literal(sign * steps[0].value, "int64")
    half = len(steps) // 2
    return (position < steps[half].start).ifelse(
        _chosen(steps[:half], sign, position), _chosen(steps[half:], sign, position)
    )
