"""A labelled table with one known rule, as `build_dataset` would give it; no shop behind it."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa

from training.dataset import Dataset
from training.splits import Splits

START = datetime(2024, 1, 1, tzinfo=UTC)
DAYS = {"train": (0, 40), "validation": (60, 70), "calibration": (70, 80), "test": (100, 115)}
BRANDS = ("acme", "zen", "other")


def chance(cart, brand):
    """The rule: what is in the cart and of one brand is bought, the rest hardly."""
    return 0.02 + 0.3 * cart * (brand == "zen") + 0.05 * cart


def dataset(rows=8_000, seed=1, shuffled=False, **more):
    """`more` maps a feature to a function of (random generator, labels) that makes it."""
    rng = np.random.default_rng(seed)
    day = rng.choice(np.concatenate([np.arange(*days) for days in DAYS.values()]), rows)
    split = np.array([next(n for n, d in DAYS.items() if d[0] <= one < d[1]) for one in day])
    cart, brand = rng.integers(0, 2, rows), rng.choice(BRANDS, rows)
    label = (rng.random(rows) < chance(cart, brand)).astype(np.int8)
    if shuffled:
        rng.shuffle(label)
    table = pa.table(
        {
            "user_id": [f"u{number:03d}" for number in rng.integers(0, 400, rows)],
            "item_id": [f"i{number:03d}" for number in rng.integers(0, 100, rows)],
            "event_timestamp": pa.array(
                [START + timedelta(days=int(d), hours=12) for d in day], pa.timestamp("us", "UTC")
            ),
            "label": label,
            "split": split,
            "user_item__is_in_cart": cart.astype(bool),
            "item__brand": brand,
            "item__category": rng.choice(["toys", "books"], rows),
            "user__n_sessions": rng.integers(1, 5, rows),
            "session__entry_hour": rng.integers(0, 24, rows),
            "v__constant": np.ones(rows),
            **{name: make(rng, label) for name, make in more.items()},
        }
    )
    periods = {n: tuple(START + timedelta(days=d) for d in days) for n, days in DAYS.items()}
    return Dataset(
        table, Splits(**periods), digest=f"{seed} {shuffled} {sorted(more)}", registry="r"
    )
