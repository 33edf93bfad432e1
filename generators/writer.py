"""The log and the truth table as Parquet, streamed day by day."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from generators.clicks import KINDS, Clicks
from generators.intent import World
from generators.truth import TruthRows
from nextbuy.events import EVENT_SCHEMA
from nextbuy.times import DAY, to_datetime
from nextbuy.versioned_table import ROW_GROUP

TRUTH_SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("event_timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("probability", pa.float64(), nullable=False),
        pa.field("is_offered", pa.bool_(), nullable=False),
        pa.field("uplift", pa.float64()),
    ]
)
"""One row per (user, item, session); `event_timestamp` is the session's last event. `probability`
is that of the session as it was, with or without an offer; `uplift`, what an offer adds to it, is
null in a shop without offers."""


class DayFiles:
    """Buffers rows until their day is over, then writes them in order to the day's file."""

    def __init__(self, file: Callable[[date], Path], then_by: tuple[str, ...]) -> None:
        """`file` gives a day's path; rows of the same moment are ordered by `then_by`."""
        self._file = file
        self._order = [("_at", "ascending"), *((name, "ascending") for name in then_by)]
        self._waiting: list[pa.Table] = []

    def add(self, rows: pa.Table, at: pa.Array) -> None:
        """Buffer rows; `at` (microseconds) is the moment each of them belongs to."""
        self._waiting.append(rows.append_column("_at", at))

    def close_day(self, midnight: int) -> None:
        """Write the rows before `midnight`, the end of a day."""
        if not self._waiting:
            return
        rows = pa.concat_tables(self._waiting)
        over = pc.less(rows["_at"], midnight)
        self._waiting = [rows.filter(pc.invert(over))]
        done = rows.filter(over).sort_by(self._order).drop_columns("_at")
        if done.num_rows:
            day = to_datetime(midnight - DAY).date()
            pq.write_table(done, self._file(day), compression="zstd", row_group_size=ROW_GROUP)

    def close(self, midnight: int) -> None:
        """Write the rest; its first rows are of the day that ends with `midnight`."""
        while any(rows.num_rows for rows in self._waiting):
            self.close_day(midnight)
            midnight += DAY


def event_table(world: World, clicks: Clicks, day: int, first_id: int, session: int) -> pa.Table:
    """Canonical events of one day's sessions, numbered from `first_id` and `session`.

    Their prices are those of the day on which their session began.
    """
    catalogue, daily, size = world.catalogue, world.daily_offer, clicks.time.size
    item = pa.array(clicks.item, mask=clicks.item < 0)
    columns = [
        _names("e", pa.array(range(first_id, first_id + size), pa.int64()), 12),
        world.shoppers.names.take(pa.array(clicks.person)),
        pa.array(clicks.time).cast(EVENT_SCHEMA.field("event_time").type),
        pa.array(KINDS, pa.string()).take(pa.array(clicks.kind)),
        catalogue.ids.take(item),
        catalogue.categories.take(item),
        catalogue.brands.take(item),
        pa.array(daily.price[day]).take(item),
        pa.array(daily.discount[day]).take(item),
        _names("s", pa.array(clicks.session + session), 9),
    ]
    return pa.Table.from_arrays(columns, schema=EVENT_SCHEMA)


def truth_table(world: World, rows: TruthRows) -> pa.Table:
    """The truth with ids instead of numbers, in `TRUTH_SCHEMA`."""
    columns = [
        world.shoppers.names.take(pa.array(rows.person)),
        world.catalogue.ids.take(pa.array(rows.item)),
        pa.array(rows.time).cast(TRUTH_SCHEMA.field("event_timestamp").type),
        pa.array(rows.probability),
        pa.array(rows.offered),
        pa.array(rows.uplift, from_pandas=True),  # NaN is null
    ]
    return pa.Table.from_arrays(columns, schema=TRUTH_SCHEMA)


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """A new folder that replaces `folder` when the block ends without an error."""
    new, old = (folder.with_name(f".{folder.name}.{suffix}") for suffix in ("new", "old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir(parents=True)
    try:
        yield new
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _names(letter: str, numbers: pa.Array, digits: int) -> pa.Array:
    padded = pc.utf8_lpad(numbers.cast(pa.string()), digits, "0")
    return pc.binary_join_element_wise(letter, padded, "")
