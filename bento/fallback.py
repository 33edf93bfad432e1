"""Item features as last read by this process: what is answered from while Redis is away."""

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bento.reader import NEVER, FeatureRows, Times, ViewSchema


class ItemFeatureCache:
    """The item-level features of the items requested last, at most `size` of them.

    Shopper features are not cached: yesterday's shopper is a wrong number, an item's price is not.
    """

    def __init__(self, views: Sequence[ViewSchema], width: int, size: int) -> None:
        """`width` is the number of the model's features."""
        self._views = [view for view in views if view.keys == {"item_id"}]
        self._names = [view.name for view in views]
        self._columns = (
            np.concatenate([view.columns for view in self._views])
            if self._views
            else np.empty(0, np.intp)
        )
        self._width = width
        self._size = size
        # By hand: cachetools.LRUCache takes four times as long, for 50 items of every request.
        self._items: OrderedDict[str, tuple[NDArray[np.float32], list[np.datetime64]]]
        self._items = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, item_ids: Sequence[str], rows: FeatureRows) -> None:
        """Cache the item features of rows that were just read; row i is of item i."""
        if not self._views or not self._size:
            return
        values = rows.matrix[:, self._columns]  # a copy: overrides may change the matrix
        times = [rows.event_times[view.name] for view in self._views]
        with self._lock:
            for row, item in enumerate(item_ids):
                self._items[item] = (values[row], [column[row] for column in times])
                self._items.move_to_end(item)
            while len(self._items) > self._size:
                self._items.popitem(last=False)

    def recall(self, item_ids: Sequence[str]) -> FeatureRows:
        """A row per item, as far as its features are cached; all else is missing."""
        matrix = np.full((len(item_ids), self._width), np.nan, np.float32)
        times: dict[str, Times] = {name: np.full(len(item_ids), NEVER) for name in self._names}
        with self._lock:
            for row, item in enumerate(item_ids):
                if (cached := self._items.get(item)) is not None:
                    matrix[row, self._columns] = cached[0]
                    for view, moment in zip(self._views, cached[1], strict=True):
                        times[view.name][row] = moment
        return FeatureRows(matrix, times)
