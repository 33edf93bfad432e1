"""The simulator's true probability of each test row; only evaluation and promotion may ask."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.versioned_table import files, manifest


def true_probability(settings: Settings, test: pa.Table) -> NDArray[np.float64] | None:
    """Of the test rows in their order, shape (rows,); None where no shop was simulated.

    Raises:
        NextbuyError: the truth belongs to another log.
    """
    if manifest(settings.truth) is None:
        return None
    rows = truth_of(settings, test, "probability")
    probability = rows["probability"].to_numpy()
    missing = int(np.isnan(probability).sum())
    if missing or len(probability) != test.num_rows:
        raise NextbuyError(
            f"{missing} of {test.num_rows} test rows have no true probability in {settings.truth}: "
            "the truth belongs to other events. Simulate and ingest again: nextbuy simulate"
        )
    return np.asarray(probability, np.float64)


def truth_of(settings: Settings, rows: pa.Table, *columns: str) -> pa.Table:
    """Columns of the truth table for these rows, in their order; null where it has no such row."""
    asked = rows.select(["user_id", "item_id", "event_timestamp"])
    asked = asked.append_column("row_number", pa.array(range(rows.num_rows), pa.int64()))
    chosen = ", ".join(f"truth.{name}" for name in columns)
    with duckdb_connection(settings) as connection:
        connection.register("asked", asked)
        return connection.sql(
            f"SELECT {chosen} FROM asked LEFT JOIN read_parquet('{files(settings.truth)}') truth "
            "USING (user_id, item_id, event_timestamp) ORDER BY row_number"
        ).to_arrow_table()
