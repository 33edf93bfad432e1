"""What the shop sells: items with category, brand, list price, style and popularity."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from generators.config import ShopConfig

STYLES = 3
"""Hidden dimensions of shoppers' taste and items' style."""


class Category(NamedTuple):
    """A category of items."""

    name: str
    typical_price: int
    """Cents."""
    satiation_days: float
    """Time constant with which satiation fades after a purchase."""
    peak_day: int
    """Day of the year with the highest demand."""


CATEGORIES = (
    Category("coffee", 1_400, 9, 350),
    Category("cosmetics", 2_200, 20, 340),
    Category("pet food", 2_600, 10, 20),
    Category("books", 1_800, 200, 345),
    Category("toys", 2_900, 200, 345),
    Category("shoes", 7_900, 150, 100),
    Category("jackets", 11_900, 250, 300),
    Category("garden", 4_900, 120, 120),
    Category("kitchen", 5_900, 250, 330),
    Category("headphones", 8_900, 300, 330),
    Category("phones", 39_900, 400, 280),
    Category("laptops", 84_900, 400, 240),
)

BRANDS = (
    "alder", "borealis", "cinder", "dovetail", "ember", "fjord", "gannet", "harrow",
    "indigo", "juniper", "kestrel", "lumen", "marlow", "nimbus", "osprey", "pell",
    "quarry", "rowan", "saffron", "tern", "umber", "vesper", "willow", "zephyr",
)  # fmt: skip


@dataclass(frozen=True)
class Catalogue:
    """Arrays of one entry per item; items are sorted by category."""

    category: NDArray[np.int64]
    brand: NDArray[np.int64]
    list_price: NDArray[np.int64]
    """Cents."""
    price_level: NDArray[np.float64]
    """Price relative to the category, in standard deviations."""
    style: NDArray[np.float64]
    """(items, STYLES)."""
    popularity: NDArray[np.float64]
    """Long-tailed weight, not normalised."""
    satiation_days: NDArray[np.float64]
    ids: pa.StringArray
    categories: pa.StringArray
    brands: pa.StringArray


def create_catalogue(config: ShopConfig, rng: np.random.Generator) -> Catalogue:
    """Draw the shop's items; every category has at least one."""
    count, kinds = config.items, len(CATEGORIES)
    share = rng.dirichlet(np.full(kinds, 6.0))
    extra = rng.choice(kinds, size=count - kinds, p=share)
    category = np.sort(np.concatenate([np.arange(kinds), extra]))
    brand = rng.integers(len(BRANDS), size=count)
    brand_style = rng.normal(size=(len(BRANDS), STYLES))
    brand_level = rng.normal(0, 0.6, len(BRANDS))
    level = 0.8 * rng.normal(size=count) + brand_level[brand]
    typical = np.array([c.typical_price for c in CATEGORIES])[category]
    price = np.maximum(np.round(typical * np.exp(0.45 * level) / 100) * 100 - 1, 99)
    rank = np.argsort(np.argsort(rng.random(count)))
    ids = pa.array([f"i{n:05d}" for n in range(count)])
    return Catalogue(
        category=category,
        brand=brand,
        list_price=price.astype(np.int64),
        price_level=level,
        style=brand_style[brand] + 0.5 * rng.normal(size=(count, STYLES)),
        popularity=np.power(rank + 5.0, -0.8, dtype=np.float64),
        satiation_days=np.array([c.satiation_days for c in CATEGORIES])[category],
        ids=ids,
        categories=pa.array([c.name for c in CATEGORIES]).take(pa.array(category)),
        brands=pa.array(BRANDS).take(pa.array(brand)),
    )
