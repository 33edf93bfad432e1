"""The hour that comes twice when the clock goes back: which of the two a row of the log is in.

A local time in it does not say. The order of the rows does, where the log is written as things
happen: there the clock jumps back once. A file is read in its own order; where that jumps about,
shopper by shopper. How much it jumps about is measured on the day around, and a jump back in the
repeated hour counts only if it is larger. Where no order tells, the rows stay where the mapping put
them, in the second of the two hours, and are counted.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import duckdb

from nextbuy.atomic import replacing
from nextbuy.shop_clock import Fold, shop_clock
from nextbuy.sql import literal, read_parquet
from nextbuy.times import DAY


class RepeatedHours(NamedTuple):
    """How the rows of the repeated hours were placed."""

    by_order: int
    """By the order of the log, in the first of the two hours or in the second."""
    unknown: int
    """In the second, because no order tells."""


def sum_of(parts: Sequence[RepeatedHours]) -> RepeatedHours:
    """The counts of several logs together."""
    return RepeatedHours(sum(p.by_order for p in parts), sum(p.unknown for p in parts))


def place_repeated_hours(
    connection: duckdb.DuckDBPyConnection, file: Path, zone: str
) -> RepeatedHours:
    """Place the rows of repeated hours in the first one where the order says so; rewrites `file`.

    Args:
        connection: does it.
        file: Parquet file of a log as `map_and_validate` gives it: `first_time` is null but in
            repeated hours.
        zone: IANA zone of the times that carry none.
    """
    rows = read_parquet(file)
    ((any_repeated,),) = connection.execute(f"SELECT count(first_time) > 0 FROM {rows}").fetchall()
    if not any_repeated:
        return RepeatedHours(0, 0)
    counts = _place_all(connection, rows, shop_clock(zone).folds)
    with replacing(file) as placed:
        connection.execute(
            "COPY (SELECT * REPLACE (CASE WHEN is_first THEN first_time ELSE event_time END AS "
            "event_time, CASE WHEN is_first THEN first_id ELSE event_id END AS event_id) "
            f"FROM (SELECT r.*, f.row IS NOT NULL AS is_first FROM {rows} r "
            "LEFT JOIN (SELECT DISTINCT file, row FROM first_rows) f "
            "ON r.first_time IS NOT NULL AND r.file = f.file AND r.row = f.row)) "
            f"TO {literal(placed)} (FORMAT parquet)"
        )
    return counts


def _place_all(
    connection: duckdb.DuckDBPyConnection, rows: str, folds: tuple[Fold, ...]
) -> RepeatedHours:
    """Decide for every row of repeated hours; the table `first_rows` holds those of the first."""
    connection.execute("CREATE OR REPLACE TABLE first_rows (file VARCHAR, row BIGINT)")
    known = total = 0
    for fold in folds:
        start_us, end_us = fold.at_us - fold.back_us, fold.at_us + fold.back_us
        connection.execute(
            "CREATE OR REPLACE TABLE around AS SELECT file, row, user_id, "
            "epoch_us(event_time) AS us, first_time IS NOT NULL AS is_repeated "
            f"FROM {rows} WHERE epoch_us(event_time) BETWEEN {start_us - DAY} AND {end_us + DAY} "
            f"AND file IN (SELECT file FROM {rows} WHERE first_time IS NOT NULL "
            f"AND epoch_us(event_time) BETWEEN {start_us} AND {end_us})"
        )
        files = connection.execute(
            "SELECT file, count(*) FILTER (is_repeated) FROM around GROUP BY file ORDER BY file"
        ).fetchall()
        for file, count in files:
            total += count
            known += _place(connection, file, fold)
        connection.execute("DROP TABLE around")
    return RepeatedHours(known, total - known)


def _place(connection: duckdb.DuckDBPyConnection, file: str, fold: Fold) -> int:
    """Place the rows of one file by its order, else by each shopper's; returns how many."""
    for keys in ("file", "file, user_id"):
        of_file = f"(FROM around WHERE file = {literal(file)})"
        ((jitter,),) = connection.execute(
            f"SELECT coalesce(max(back_us), 0) FROM {_with_jumps(of_file, keys)} "
            "WHERE NOT is_repeated"
        ).fetchall()
        if jitter >= fold.back_us / 2:
            continue  # this order jumps about by more than the clock
        repeated = f"(FROM {of_file} WHERE is_repeated)"
        connection.execute(
            f"CREATE OR REPLACE TABLE jumps AS SELECT {keys}, min(row) AS from_row "
            f"FROM {_with_jumps(repeated, keys)} WHERE back_us > {jitter} GROUP BY ALL"
        )
        # The clock goes back once: an order in which it does so again tells nothing.
        later = f"(SELECT r.* FROM {repeated} r JOIN jumps USING ({keys}) WHERE row >= from_row)"
        connection.execute(
            f"CREATE OR REPLACE TABLE placed_by AS FROM jumps ANTI JOIN (SELECT {keys} "
            f"FROM {_with_jumps(later, keys)} WHERE back_us > {jitter}) USING ({keys})"
        )
        placed = f"{repeated} r JOIN placed_by USING ({keys})"
        connection.execute(
            f"INSERT INTO first_rows SELECT r.file, r.row FROM {placed} WHERE row < from_row"
        )
        ((count,),) = connection.execute(f"SELECT count(*) FROM {placed}").fetchall()
        if count:
            return int(count)
    return 0


def _with_jumps(rows: str, keys: str) -> str:
    """The rows with `back_us`: how far each lies before the latest of those above it."""
    return (
        f"(SELECT *, max(us) OVER (PARTITION BY {keys} ORDER BY row, us "
        "ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) - us AS back_us "
        f"FROM {rows})"
    )
