"""Where a model is good and where not: the test rows, cut by what was known of them."""

from collections import Counter
from collections.abc import Iterator
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LARGEST = 8
"""Categories that get a slice of their own."""
FEWEST_POSITIVES = 20
"""Slices with fewer say nothing."""

Rows = NDArray[np.bool_]


def slices(table: pa.Table, labels: NDArray[np.int8]) -> Iterator[tuple[str, Rows]]:
    """Name and rows of each slice that holds enough positives and any negative.

    The columns it asks for are left out where the log does not support them.
    """
    for name, rows in _cuts(table):
        positives = int(labels[rows].sum())
        if FEWEST_POSITIVES <= positives < rows.sum():
            yield name, rows


def _cuts(table: pa.Table) -> Iterator[tuple[str, Rows]]:
    def column(name: str) -> NDArray[np.float64] | None:
        if name not in table.column_names:
            return None
        return np.asarray(table[name].cast(pa.float64(), safe=False).to_numpy(), np.float64)

    sessions = column("user__n_sessions")
    if sessions is not None:
        yield "first session", sessions <= 1
        yield "returning shopper", sessions > 1
    cart = column("user_item__is_in_cart")
    if cart is not None:
        yield "in the cart", cart == 1
        yield "not in the cart", cart != 1
    moments: list[datetime] = table["event_timestamp"].to_pylist()
    weekday = np.array([moment.weekday() for moment in moments])
    for day, name in enumerate(WEEKDAYS):
        yield name, weekday == day
    if "item__category" in table.column_names:
        category = np.array(table["item__category"].to_pylist(), object)
        counted = Counter(name for name in category if name is not None)
        for name, _ in sorted(counted.items(), key=lambda c: (-c[1], c[0]))[:LARGEST]:
            yield f"category {name}", category == name
