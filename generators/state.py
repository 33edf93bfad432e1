"""What a shopper carries from one session to the next: the simulator's whole hidden state."""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

SLOTS = 12
"""Items a shopper keeps in mind; a session touches no more than that."""
NEVER = np.iinfo(np.int64).max


@dataclass
class Minds:
    """Items in mind, as (shoppers, SLOTS) arrays. They change in a session and at no other time."""

    item: NDArray[np.int64]
    """-1 for an empty slot."""
    want: NDArray[np.float64]
    """Interest gathered from looking: views, scrolls and dwell."""
    tired: NDArray[np.float64]
    """Sessions that touched the item and did not buy it."""
    sated: NDArray[np.float64]
    """1 just after buying it; the need comes back with the days."""
    in_cart: NDArray[np.bool_]
    touched: NDArray[np.bool_]
    """By the last session."""
    probability: NDArray[np.float64]
    """What the truth table says of it since the last session; kept for the score."""

    @classmethod
    def empty(cls, shoppers: int, slots: int = SLOTS) -> "Minds":
        """Nothing in mind."""
        shape = (shoppers, slots)
        return cls(
            item=np.full(shape, -1, np.int64),
            want=np.zeros(shape),
            tired=np.zeros(shape),
            sated=np.zeros(shape),
            in_cart=np.zeros(shape, bool),
            touched=np.zeros(shape, bool),
            probability=np.zeros(shape),
        )

    def of(self, who: NDArray[np.int64]) -> "Minds":
        """A copy of the rows of some shoppers."""
        return Minds(*(getattr(self, f.name)[who] for f in fields(self)))

    def put(self, who: NDArray[np.int64], minds: "Minds") -> None:
        """Write rows back."""
        for f in fields(self):
            getattr(self, f.name)[who] = getattr(minds, f.name)

    def with_new(self, items: NDArray[np.int64]) -> "Minds":
        """Widen by columns of newly met items, (shoppers, n); -1 where there is none."""
        new = Minds.empty(*items.shape)
        new.item = items
        return Minds(
            *(np.hstack([getattr(self, f.name), getattr(new, f.name)]) for f in fields(self))
        )

    def strongest(self) -> "Minds":
        """The SLOTS items that stay in mind: first what was touched, then cart, then want."""
        rank = self.want + 100.0 * self.in_cart + 10_000.0 * self.touched - 1e6 * (self.item < 0)
        keep = np.argsort(-rank, axis=1, kind="stable")[:, :SLOTS]
        return Minds(*(np.take_along_axis(getattr(self, f.name), keep, 1) for f in fields(self)))


@dataclass
class State:
    """Everything about the shoppers that changes."""

    minds: Minds
    wallet: NDArray[np.float64]
    """Cents left at the end of the last session."""
    last_end: NDArray[np.int64]
    """When the last session ended, in microseconds; -1 before the first."""
    next_start: NDArray[np.int64]
    """When the next session begins; NEVER for those who are lost."""
    guest: NDArray[np.bool_]
    """Still anonymous."""
    offered: NDArray[np.bool_]
    """The last session ended with an offer."""
