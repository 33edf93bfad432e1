"""A month of plausible events, and the ways to spoil it."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nextbuy.events import EVENT_SCHEMA
from nextbuy.settings import Settings
from tests.shop import publish_events

START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = START + timedelta(days=31)


def month(days: int = 10, per_day: int = 1500, seed: int = 1) -> pa.Table:
    rng = np.random.default_rng(seed)
    n = days * per_day
    second = (
        np.sort(rng.integers(0, 86_400, (days, per_day)), axis=1)
        + np.arange(days)[:, None] * 86_400
    )
    item = rng.zipf(1.5, n) % 300
    kinds = ["view", "scroll", "add_to_cart", "remove_from_cart", "purchase", "login"]
    kind = rng.choice(kinds, n, p=[0.7, 0.1, 0.1, 0.03, 0.05, 0.02])
    is_login = kind == "login"
    discount = rng.choice([0, 500], n)
    return pa.table(
        {
            "event_id": [f"e{i}" for i in range(n)],
            "user_id": [f"u{i}" for i in rng.integers(0, 400, n)],
            "event_time": pa.array(
                int(START.timestamp() * 1e6) + second.ravel() * 1_000_000, pa.timestamp("us", "UTC")
            ),
            "event_type": kind,
            "item_id": pa.array([f"i{i}" for i in item], mask=is_login),
            "category": pa.array([f"c{i % 12}" for i in item], mask=is_login),
            "brand": pa.array([f"b{i % 30}" for i in item], mask=is_login),
            "price": pa.array(1000 + item * 37 - discount, pa.int64(), mask=is_login),
            "discount": pa.array(discount, pa.int64(), mask=is_login),
            "source_session_id": pa.nulls(n, pa.string()),
        },
        schema=EVENT_SCHEMA,
    )


def with_values(table: pa.Table, column: str, rows: Sequence[int], value: object) -> pa.Table:
    """The table with `value` in some rows of a column."""
    mask = np.zeros(table.num_rows, bool)
    mask[list(rows)] = True
    field = table.schema.field(column).with_nullable(True)
    changed = pc.if_else(pa.array(mask), pa.scalar(value, field.type), table[column])
    return table.set_column(table.schema.get_field_index(column), field, changed)


def save(table: pa.Table, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "new.parquet")
    return folder / "new.parquet"


def publish(table: pa.Table, settings: Settings) -> None:
    """Publish events of a log without the shop's own sessions."""
    publish_events(table, settings, columns=("brand", "category", "discount", "price"))
