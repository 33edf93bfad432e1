"""The features of one online request: as a matrix, as columns or as a table, converted on demand.

A view's numbers come as matrices, one for each type. A model takes all of them at once, so they are
copied matrix by matrix; a single feature is a column of one of them.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from nextbuy.times import NOT_SEEN_US, to_datetime

NAN = np.float32(np.nan)


@dataclass(frozen=True, slots=True)
class FeatureColumn:
    """One feature of all rows."""

    values: NDArray[Any]
    """Shape (rows,): integers, floats or booleans; text and lists as objects."""
    present: NDArray[np.bool_]
    """Shape (rows,): where the value is known; elsewhere `values` holds anything."""

    def to_arrow(self) -> pa.Array:
        """The column with nulls."""
        return pa.array(self.values, mask=~self.present, from_pandas=False)


class ViewRows(NamedTuple):
    """One view's features of a request: a row for each of its rows, or one that stands for all."""

    timestamps: NDArray[np.int64]
    """Shape (rows,): event timestamps in microseconds since 1970, NOT_SEEN_US without a row."""
    numbers: tuple[NDArray[Any], ...]
    """Per type, shape (rows, features)."""
    missing: NDArray[np.bool_]
    """Shape (rows, features of all types), in the order of `numbers`."""
    others: tuple[FeatureColumn, ...]
    """What is not a number."""


class ReadPlan:
    """Where each feature lies in the replies to one reader.

    Args:
        views: per view its title, the full names in the order of `ViewRows.numbers`, and of
            `ViewRows.others`.
        listed: the features that a batch shows, in order.
        read: these and the inputs of on-demand views; other features of a view are not available.
    """

    def __init__(
        self,
        views: Sequence[tuple[str, Sequence[Sequence[str]], Sequence[str]]],
        listed: Sequence[str],
        read: Container[str],
    ) -> None:
        self.listed = tuple(listed)
        self.titles = {title: view for view, (title, _, _) in enumerate(views)}
        self.numbers: dict[str, tuple[int, int, int, int]] = {}
        """Feature -> view, matrix, column of the matrix, column among all numbers of the view."""
        self.others: dict[str, tuple[int, int]] = {}
        """Feature -> view, index in `ViewRows.others`."""
        self.positions: dict[str, int] = {}
        """Feature -> its column among all numbers of all views."""
        self.spans: list[tuple[slice, list[slice]]] = []
        """Per view: its columns among all numbers, and those of each matrix."""
        self.width = 0
        for view, (_, matrices, others) in enumerate(views):
            start, spans = self.width, []
            for matrix, names in enumerate(matrices):
                for column, name in enumerate(names):
                    at = self.width + column
                    if name in read:
                        self.numbers[name] = view, matrix, column, at - start
                        self.positions[name] = at
                spans.append(slice(self.width, self.width + len(names)))
                self.width += len(names)
            self.spans.append((slice(start, self.width), spans))
            self.others |= {name: (view, i) for i, name in enumerate(others)}
        self.columns = lru_cache(maxsize=16)(self._columns)  # a model takes the same ones each time
        """Columns of these names among all numbers of all views; None if one is not a number."""

    def _columns(self, names: tuple[str, ...]) -> NDArray[np.intp] | None:
        if not all(name in self.positions for name in names):
            return None
        return np.array([self.positions[name] for name in names], np.intp)


class FeatureBatch(Mapping[str, pa.Array]):
    """The features of one request by full name (`view__feature`).

    A mapping of Arrow columns, as `ModelContract.matrix` takes it.
    """

    def __init__(
        self,
        plan: ReadPlan,
        parts: Sequence[ViewRows],
        rows: int,
        us: int,
        ttls: Sequence[int | None],
    ) -> None:
        self._plan, self._parts = plan, parts
        self.rows = rows
        self._us = us
        self._expired = {
            view: expired
            for view, (part, ttl) in enumerate(zip(parts, ttls, strict=True))
            if ttl is not None
            and (expired := (part.timestamps < us - ttl) & (part.timestamps != NOT_SEEN_US)).any()
        }
        """View -> rows that are older than its TTL; only views that have some."""
        self.derived: dict[str, pa.Array] = {}
        """Features of on-demand views."""

    @property
    def now(self) -> datetime:
        """The time against which rows expired."""
        return to_datetime(self._us)

    @property
    def timestamps(self) -> dict[str, NDArray[np.int64]]:
        """Per view, shape (rows,): event timestamps in microseconds since 1970; NOT_SEEN_US where
        there is no row, or only one older than its TTL."""
        return {title: self._timestamps(view) for title, view in self._plan.titles.items()}

    def _timestamps(self, view: int) -> NDArray[np.int64]:
        timestamps = self._parts[view].timestamps
        if view in self._expired:
            timestamps = np.where(self._expired[view], NOT_SEEN_US, timestamps)
        return timestamps if len(timestamps) == self.rows else np.repeat(timestamps, self.rows)

    def __getitem__(self, name: str) -> pa.Array:
        return self.derived[name] if name in self.derived else self.column(name).to_arrow()

    def __iter__(self) -> Any:
        return iter([*self._plan.listed, *self.derived])

    def __len__(self) -> int:
        return len(self._plan.listed) + len(self.derived)

    def column(self, name: str) -> FeatureColumn:
        """A stored feature as NumPy.

        Raises:
            KeyError: it is not among the stored features.
        """
        if name in self._plan.others:
            view, i = self._plan.others[name]
            stored = self._parts[view].others[i]
            values, present = stored.values, stored.present
        else:
            view, matrix, column, slot = self._plan.numbers[name]
            part = self._parts[view]
            values, present = part.numbers[matrix][:, column], ~part.missing[:, slot]
        if view in self._expired:
            present = present & ~self._expired[view]
        if len(values) != self.rows:
            values, present = np.repeat(values, self.rows), np.repeat(present, self.rows)
        return FeatureColumn(values, present)

    def matrix(self, names: Sequence[str] | None = None) -> NDArray[np.float32]:
        """Numeric features as float32 of shape (rows, names), NaN where a value is missing.

        Raises:
            KeyError: a name is not among the features.
            ValueError: a feature is text.
        """
        plan = self._plan
        numbers = np.empty((self.rows, plan.width), np.float32)
        for view, (part, (span, spans)) in enumerate(zip(self._parts, plan.spans, strict=True)):
            for values, columns in zip(part.numbers, spans, strict=True):
                numbers[:, columns] = values
            mine = numbers[:, span]
            if len(part.missing) == self.rows:
                mine[part.missing] = NAN
            else:
                mine[:, part.missing[0]] = NAN
            if view in self._expired:
                np.copyto(mine, NAN, where=self._expired[view][:, None])
        if names is None:
            names = plan.listed + tuple(self.derived)
        names = tuple(names)
        chosen = plan.columns(names)
        return self._mixed(numbers, names) if chosen is None else numbers.take(chosen, axis=1)

    def _mixed(self, numbers: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
        """With features of on-demand views among the names."""
        matrix = np.empty((self.rows, len(names)), np.float32)
        for column, name in enumerate(names):
            if name in self._plan.others:
                raise ValueError(f"{name} is not numeric; a model's contract has codes for text")
            if name in self.derived:
                derived = self.derived[name].cast(pa.float32())
                matrix[:, column] = derived.to_numpy(zero_copy_only=False)
            else:
                matrix[:, column] = numbers[:, self._plan.positions[name]]
        return matrix

    def table(self) -> pa.Table:
        """All features as an Arrow table."""
        return pa.table({name: self[name] for name in self})
