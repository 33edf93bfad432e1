"""What is answered from while Redis is away: the features items had when last seen here."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bento.reader import NEVER, Block, Times, View

_Seen = tuple[NDArray[np.float32], list[np.datetime64]]


class ItemDefaults:
    """The item-level features of the items asked for last, at most `size` of them.

    Shopper features are not kept: yesterday's shopper is a wrong number, an item's price is not.
    """

    def __init__(self, views: Sequence[View], width: int, size: int) -> None:
        self._views = [view for view in views if view.keys == {"item_id"}]
        self._names = [view.name for view in views]
        self._columns = (
            np.concatenate([view.columns for view in self._views])
            if self._views
            else np.empty(0, np.intp)
        )
        self._width = width
        self._size = size
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()

    def remember(self, item_ids: Sequence[str], block: Block) -> None:
        """Keep the item features of a block that was just read."""
        if not self._views or not self._size:
            return
        values = block.matrix[:, self._columns]  # a copy: the request may change its block
        times = [block.event_times[view.name] for view in self._views]
        with self._lock:
            for row, item in enumerate(item_ids):
                self._seen.pop(item, None)  # to the end: the least recently asked for goes first
                self._seen[item] = (values[row], [column[row] for column in times])
            while len(self._seen) > self._size:
                del self._seen[next(iter(self._seen))]

    def recall(self, item_ids: Sequence[str]) -> Block:
        """The pairs' features as far as they are known here; all else is missing."""
        matrix = np.full((len(item_ids), self._width), np.nan, np.float32)
        times: dict[str, Times] = {name: np.full(len(item_ids), NEVER) for name in self._names}
        with self._lock:
            for row, item in enumerate(item_ids):
                if (seen := self._seen.get(item)) is not None:
                    matrix[row, self._columns] = seen[0]
                    for view, moment in zip(self._views, seen[1], strict=True):
                        times[view.name][row] = moment
        return Block(matrix, times)
