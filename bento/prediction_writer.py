"""Writes the prediction log without delaying requests.

Requests put records on a bounded queue, a thread writes them as Parquet files. What does not fit,
or cannot be written, is lost and counted.
"""

import logging
import os
import threading
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from bento.schemas import ItemState
from nextbuy.prediction_log import PREDICTION_SCHEMA, write_predictions
from nextbuy.settings import Settings

logger = logging.getLogger("bentoml.nextbuy")  # below BentoML's logger, whose handlers it shares


@dataclass(frozen=True)
class PredictionRecord:
    """The scored items of one request; arrays are of shape (n,), the matrix (n, features)."""

    request_id: str
    predicted_at: datetime
    as_of: datetime
    read_at: datetime | None
    user_id: str
    item_ids: list[str]
    states: list[ItemState]
    touched_at: list[datetime | None]
    probabilities: NDArray[np.float64]
    ranks: NDArray[np.int32]
    model: str
    is_shadow: bool
    is_degraded: bool
    has_reasons: bool
    has_context: bool
    matrix: NDArray[np.float32]


class PredictionWriter:
    """Collects what was answered and writes it every `seconds`, or when half full.

    >>> writer = PredictionWriter(Settings(), max_rows=100_000, seconds=60)
    >>> writer.close()
    """

    def __init__(
        self,
        settings: Settings,
        max_rows: int,
        seconds: float,
        on_written: Callable[[int], None] = lambda rows: None,
        on_lost: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """`on_written` and `on_lost` are called with the number of rows, from any thread."""
        self._settings = settings
        self._max_rows = max_rows
        self._seconds = seconds
        self._on_written = on_written
        self._on_lost = on_lost
        self._waiting: list[PredictionRecord] = []
        self._rows = 0  # waiting or being written
        self._changed = threading.Condition()
        self._closing = False
        self._writer = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._thread = threading.Thread(target=self._work, name="prediction-log", daemon=True)
        self._thread.start()

    def put(self, record: PredictionRecord) -> None:
        """Take the rows of one request, or count them as lost. Returns at once."""
        rows = len(record.item_ids)
        with self._changed:
            fits = not self._closing and self._rows + rows <= self._max_rows
            if fits:
                self._waiting.append(record)
                self._rows += rows
                if self._rows * 2 >= self._max_rows:
                    self._changed.notify()
        if not fits:
            self._on_lost(rows)

    def close(self) -> None:
        """Write what waits; later records are lost and counted."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        number = 0
        closing = False
        while not closing:
            with self._changed:
                self._changed.wait_for(
                    lambda: self._closing or self._rows * 2 >= self._max_rows, self._seconds
                )
                closing = self._closing
                records, self._waiting = self._waiting, []
            if records:
                rows = sum(len(record.item_ids) for record in records)
                self._write(records, rows, number)
                number += 1
                with self._changed:
                    self._rows -= rows

    def _write(self, records: list[PredictionRecord], rows: int, number: int) -> None:
        try:
            write_predictions(self._settings, _table(records), self._writer, number)
        except (OSError, pa.ArrowException) as error:
            logger.error("%d predictions were not logged: %s", rows, error)
            self._on_lost(rows)
        else:
            self._on_written(rows)


def _table(records: list[PredictionRecord]) -> pa.Table:
    each = np.repeat(np.arange(len(records)), [len(record.item_ids) for record in records])
    # The models of a log differ in width: a challenger has features of its own.
    widths = np.repeat(
        [record.matrix.shape[1] for record in records], [len(record.item_ids) for record in records]
    )
    vectors = pa.ListArray.from_arrays(
        np.concatenate([[0], np.cumsum(widths)]).astype(np.int32),
        np.concatenate([record.matrix.ravel() for record in records]).astype(np.float32),
    )

    def per_request(name: str) -> pa.Array:
        values = pa.array(
            [getattr(record, name) for record in records], PREDICTION_SCHEMA.field(name).type
        )
        return values.take(pa.array(each))

    columns = {
        "item_id": pa.array([item for record in records for item in record.item_ids]),
        "state": pa.array([state for record in records for state in record.states]),
        "touched_at": pa.array(
            [moment for record in records for moment in record.touched_at],
            PREDICTION_SCHEMA.field("touched_at").type,
        ),
        "probability": np.concatenate([record.probabilities for record in records]),
        "rank": np.concatenate([record.ranks for record in records]).astype(np.int32),
        "vector": vectors,
    }
    return pa.table(
        [
            columns[name] if name in columns else per_request(name)
            for name in PREDICTION_SCHEMA.names
        ],
        schema=PREDICTION_SCHEMA,
    )
