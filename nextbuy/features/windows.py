"""Sums over sliding windows, exact at every moment, without a self-join.

A row that happened at `since_us` and became known at `known_us` adds its measures to a window of
length w from `known_us` on and takes them away at `since_us + w`. The running sum over these
change points is the sum over (T - w, T] of what was known at T. One pass, one sort, linear in the
number of rows; the same on DuckDB and Spark.
"""

from collections.abc import Mapping, Sequence

import ibis
import ibis.expr.types as ir

from nextbuy.sessions import DAY

WINDOWS: Mapping[str, int | None] = {"": None, "_1d": DAY, "_7d": 7 * DAY, "_30d": 30 * DAY}
"""Suffix of a windowed measure -> length in microseconds; None is the lifetime."""


def as_of(
    rows: ir.Table,
    keys: Sequence[str],
    sums: Mapping[str, Sequence[str]],
    maxima: Sequence[str] = (),
) -> ir.Table:
    """Window sums (and running maxima) per key at every moment at which one of them changes.

    Args:
        rows: keys, `known_us`, `since_us` (<= `known_us`), `is_asked` and the measures.
        keys: partition of the windows.
        sums: measure -> suffixes of its windows (keys of `WINDOWS`).
        maxima: columns whose largest value so far is wanted; nulls do not count.

    Returns:
        keys, `event_us`, `<measure><suffix>` (int64), the maxima, and `is_asked`: whether one of
        the rows that asked for this moment is among the changes.
    """
    used = {suffix for suffixes in sums.values() for suffix in suffixes}
    gained = {
        f"{measure}{suffix}": _inside(rows, suffix).ifelse(rows[measure], 0)
        for measure, suffixes in sums.items()
        for suffix in suffixes
    }
    changes = [
        rows.select(
            *keys,
            event_us=rows.known_us,
            is_asked=rows.is_asked.cast("int64"),
            **{name: value.cast("int64") for name, value in gained.items()},
            **{name: rows[name] for name in maxima},
        )
    ]
    for suffix in WINDOWS:
        length = WINDOWS[suffix]
        if length is None or suffix not in used:
            continue
        leaving = rows.filter(_inside(rows, suffix))
        lost = {
            f"{measure}{window}": (-leaving[measure]).cast("int64")
            if window == suffix
            else ibis.literal(0, "int64")
            for measure, suffixes in sums.items()
            for window in suffixes
        }
        changes.append(
            leaving.select(
                *keys,
                event_us=leaving.since_us + length,
                is_asked=ibis.literal(0, "int64"),
                **lost,
                **{name: ibis.null(rows[name].type()) for name in maxima},
            )
        )
    moments = ibis.union(*changes) if len(changes) > 1 else changes[0]
    moments = moments.group_by([*keys, "event_us"]).aggregate(
        is_asked=moments.is_asked.max(),
        **{name: moments[name].sum().cast("int64") for name in gained},
        **{name: moments[name].max() for name in maxima},
    )
    so_far = ibis.cumulative_window(group_by=list(keys), order_by="event_us")
    return moments.select(
        *keys,
        "event_us",
        is_asked=moments.is_asked == 1,
        **{name: moments[name].sum().over(so_far) for name in gained},
        **{name: moments[name].max().over(so_far) for name in maxima},
    )


def _inside(rows: ir.Table, suffix: str) -> ir.BooleanValue:
    length = WINDOWS[suffix]
    if length is None:
        return ibis.literal(True)
    return rows.known_us < rows.since_us + length
