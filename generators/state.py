"""What shoppers carry from one session to the next: the simulator's whole hidden state."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

SLOTS = 12
"""Items a shopper remembers; a session touches at most this many."""
NEVER = np.iinfo(np.int64).max


@dataclass
class ShopperItemState:
    """State of remembered items, as (shoppers, SLOTS) arrays. Only sessions change it."""

    item: NDArray[np.int64]
    """-1 for an empty slot."""
    intent: NDArray[np.float64]
    """Interest from views, scrolls and dwell time."""
    fatigue: NDArray[np.float64]
    """Sessions that touched the item and did not buy it."""
    satiation: NDArray[np.float64]
    """1 right after buying it; fades with the days."""
    in_cart: NDArray[np.bool_]
    touched: NDArray[np.bool_]
    """By the last session."""
    probability: NDArray[np.float64]
    """The truth of the last session; the oracle's score needs it when the outcome is known."""

    @classmethod
    def empty(cls, shoppers: int, slots: int = SLOTS) -> "ShopperItemState":
        """No item remembered."""
        shape = (shoppers, slots)
        return cls(
            item=np.full(shape, -1, np.int64),
            intent=np.zeros(shape),
            fatigue=np.zeros(shape),
            satiation=np.zeros(shape),
            in_cart=np.zeros(shape, bool),
            touched=np.zeros(shape, bool),
            probability=np.zeros(shape),
        )

    def of(self, who: NDArray[np.int64]) -> "ShopperItemState":
        """A copy of the rows of some shoppers."""
        return ShopperItemState(*(getattr(self, f.name)[who] for f in fields(self)))

    def put(self, who: NDArray[np.int64], items: "ShopperItemState") -> None:
        """Write rows back."""
        for f in fields(self):
            getattr(self, f.name)[who] = getattr(items, f.name)

    def with_new(self, items: NDArray[np.int64]) -> "ShopperItemState":
        """Add slots with newly met items, (shoppers, n); -1 leaves a slot empty."""
        new = ShopperItemState.empty(*items.shape)
        new.item = items
        return ShopperItemState(
            *(np.hstack([getattr(self, f.name), getattr(new, f.name)]) for f in fields(self))
        )

    def keep_strongest(self) -> "ShopperItemState":
        """The SLOTS items that stay remembered: first touched ones, then by cart and intent."""
        rank = self.intent + 100.0 * self.in_cart + 10_000.0 * self.touched - 1e6 * (self.item < 0)
        keep = np.argsort(-rank, axis=1, kind="stable")[:, :SLOTS]
        return ShopperItemState(
            *(np.take_along_axis(getattr(self, f.name), keep, 1) for f in fields(self))
        )


@dataclass
class ShopState:
    """Everything about the shoppers that changes."""

    items: ShopperItemState
    wallet: NDArray[np.float64]
    """Cents left at the end of the last session."""
    last_end: NDArray[np.int64]
    """When the last session ended, in microseconds; -1 before the first."""
    next_start: NDArray[np.int64]
    """When the next session begins; NEVER for those who do not come back."""
    guest: NDArray[np.bool_]
    """Still anonymous."""
    offered: NDArray[np.bool_]
    """The last session ended with an offer."""
