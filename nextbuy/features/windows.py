"""Sums over sliding windows, exact at every moment, without a self-join.

A row that happened at `since_us` and became known at `known_us` adds its measures to a window of
length w from `known_us` on and takes them away at `since_us + w`. The running sum over these
change points is the sum over (T - w, T] of what was known at T. Where only some moments
are requested, a change counts at the next of them, so that there are no more moments than results.
Linear in the number of rows but for the sort; the same on DuckDB and Spark.
"""

from collections.abc import Callable, Mapping, Sequence

import ibis
import ibis.expr.types as ir

from nextbuy.times import DAY

WINDOWS: Mapping[str, int | None] = {"": None, "_1d": DAY, "_7d": 7 * DAY, "_30d": 30 * DAY}
"""Suffix of a windowed measure -> length in microseconds; None is the lifetime."""

Sums = Mapping[str, Sequence[str]]
"""Measure -> suffixes of its windows (keys of `WINDOWS`)."""


def as_of(
    rows: ir.Table,
    keys: Sequence[str],
    sums: Sums,
    maxima: Sequence[str] = (),
    first_us: ir.IntegerScalar | None = None,
) -> ir.Table:
    """Window sums (and running maxima) per key at every requested moment.

    Args:
        rows: keys, `known_us`, `since_us` (<= `known_us`), `is_requested` and the measures. The
            moment of a requested row is `known_us`, which is then `since_us` as well.
        keys: partition of the windows.
        sums: what to add up.
        maxima: columns to give the largest value so far of; nulls do not count.
        first_us: moments before it are left out.

    Returns:
        keys, `event_us`, `<measure><suffix>` (int64), the maxima.
    """
    is_requested = (
        rows.is_requested if first_us is None else rows.is_requested & (rows.known_us >= first_us)
    )
    requested = rows.mutate(requested_us=is_requested.ifelse(rows.known_us, None))

    def next_requested(after: str, pause: int) -> ir.IntegerColumn:
        ahead = ibis.range_window(
            group_by=list(keys), order_by=after, preceding=None, following=(pause, None)
        )
        return requested.requested_us.min().over(ahead)

    shifted = requested.mutate(
        known_us=next_requested("known_us", 0),
        **{f"left{s}_us": next_requested("since_us", WINDOWS[s] or 0) for s in _suffixes(sums)},
        **{f"is_inside{s}": _inside(rows, s) for s in _suffixes(sums)},
    )
    return _running(
        shifted,
        keys,
        sums,
        maxima,
        inside=lambda suffix: shifted[f"is_inside{suffix}"],
        gained_us=shifted.known_us,
        lost_us=lambda suffix: shifted[f"left{suffix}_us"],
    )


def at_every_change(
    rows: ir.Table,
    keys: Sequence[str],
    sums: Sums,
    leaves_us: Callable[[str], ir.IntegerValue],
    maxima: Sequence[str] = (),
    first_us: ir.IntegerScalar | None = None,
) -> ir.Table:
    """As `as_of`, at every moment at which one of the sums changes.

    `since_us` and `is_requested` are not read: `leaves_us` gives, for a window's suffix, when a row
    leaves it, never before it is known. With `first_us`, moments before it are one: the last
    microsecond before.
    """
    return _running(
        rows,
        keys,
        sums,
        maxima,
        inside=lambda _: ibis.literal(True),
        gained_us=not_before(rows.known_us, first_us),
        lost_us=lambda suffix: not_before(leaves_us(suffix), first_us),
    )


def not_before(moment: ir.IntegerValue, first_us: ir.IntegerScalar | None) -> ir.IntegerValue:
    """`moment`, or the last microsecond before `first_us` where that is later."""
    return moment if first_us is None else ibis.greatest(moment, first_us - 1)


def next_moments(requests: ir.Table, moments: ir.Table, pause: int = 0) -> ir.Table:
    """The first of an id's moments at or after each requested moment, `pause` later at least.

    Args:
        requests: `id`, `at_us`.
        moments: `id`, `moment_us`.
        pause: in microseconds.

    Returns:
        `id`, `at_us`, `moment_us`, once each, where there is one.
    """
    marks = requests.select("id", "at_us", moment_us=ibis.null("int64"))
    marks = marks.union(moments.select("id", at_us="moment_us", moment_us="moment_us"))
    ahead = ibis.range_window(
        group_by=marks.id, order_by=marks.at_us, preceding=None, following=(pause, None)
    )
    marks = marks.mutate(moment_us=marks.moment_us.min().over(ahead)).distinct()
    return marks.filter(marks.moment_us.notnull())


def _running(
    rows: ir.Table,
    keys: Sequence[str],
    sums: Sums,
    maxima: Sequence[str],
    inside: Callable[[str], ir.BooleanValue],
    gained_us: ir.IntegerValue,
    lost_us: Callable[[str], ir.IntegerValue],
) -> ir.Table:
    """Running sums per key over gains and losses, each at its moment; those at none are left out.

    `inside` and `lost_us` give, for a window's suffix, whether a row was in it and when it left.
    """
    windows = [(measure, suffix) for measure, suffixes in sums.items() for suffix in suffixes]
    changes = [
        rows.select(
            *keys,
            event_us=gained_us,
            **{
                f"{measure}{suffix}": (
                    inside(suffix).ifelse(rows[measure], 0) if suffix else rows[measure]
                ).cast("int64")
                for measure, suffix in windows
            },
            **{name: rows[name] for name in maxima},
        )
    ]
    for left in _suffixes(sums):
        leaving = rows.select(
            *keys,
            event_us=inside(left).ifelse(lost_us(left), None),
            **{
                f"{measure}{suffix}": (-rows[measure]).cast("int64")
                if suffix == left
                else ibis.literal(0, "int64")
                for measure, suffix in windows
            },
            **{name: ibis.null(rows[name].type()) for name in maxima},
        )
        changes.append(leaving)
    moments = ibis.union(*changes) if len(changes) > 1 else changes[0]
    moments = moments.filter(moments.event_us.notnull())
    names = [f"{measure}{suffix}" for measure, suffix in windows]
    moments = moments.group_by([*keys, "event_us"]).aggregate(
        **{name: moments[name].sum().cast("int64") for name in names},
        **{name: moments[name].max() for name in maxima},
    )
    so_far = ibis.cumulative_window(group_by=list(keys), order_by="event_us")
    return moments.select(
        *keys,
        "event_us",
        **{name: moments[name].sum().over(so_far) for name in names},
        **{name: moments[name].max().over(so_far) for name in maxima},
    )


def _suffixes(sums: Sums) -> list[str]:
    """The windows that rows leave."""
    used = {suffix for suffixes in sums.values() for suffix in suffixes}
    return [suffix for suffix, length in WINDOWS.items() if suffix in used and length is not None]


def _inside(rows: ir.Table, suffix: str) -> ir.BooleanValue:
    return rows.known_us < rows.since_us + (WINDOWS[suffix] or 0)
