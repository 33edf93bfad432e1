"""Sends a log to the service: `POST /events` in the order of the log, at any speed.

Events that were not acknowledged are sent again; the service counts each event once.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq

from nextbuy.errors import NextbuyError
from nextbuy.events import EVENT_SCHEMA
from nextbuy.times import to_us

RETRY_FOR_SECONDS = 60.0
"""How long requests to a service that is away or overloaded are repeated."""
RETRY_SECONDS = 0.2
RETRIED_STATUS = (429, 503, 504)


@dataclass
class ReplayReport:
    """Outcome of a replay."""

    sent: int = 0
    accepted: int = 0
    duplicates: int = 0
    refused: list[str] = field(default_factory=list)
    """The reason for each refused event."""
    predictions: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        text = (
            f"{self.sent:,} events sent in {self.seconds:.1f} s "
            f"({self.sent / max(self.seconds, 1e-9):,.0f} a second): {self.accepted:,} accepted, "
            f"{self.duplicates:,} known, {len(self.refused):,} refused"
        )
        if self.predictions:
            text += f"; {self.predictions:,} predictions requested"
        return f"{text}\nfirst refused: {self.refused[0]}" if self.refused else text


def replay(
    files: Sequence[Path],
    url: str,
    *,
    speed: float | None = None,
    batch: int = 100,
    predict: bool = False,
    headers: dict[str, str] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ReplayReport:
    """Send the events of canonical Parquet files in order, and wait for each response.

    Args:
        files: files with the columns of `nextbuy.events.EVENT_SCHEMA`.
        url: the service.
        speed: times real speed; None is as fast as the service accepts.
        batch: events in one request.
        predict: request a prediction for each shopper of a request after it.
        headers: with an API key, if the service requires one.
        progress: called with the number of events sent, and of all events.

    Raises:
        NextbuyError: a file is no event log, or the service does not accept the events.
    """
    events = pa.concat_tables([_read(file) for file in files])
    report, began = ReplayReport(), time.monotonic()
    first_us: int | None = None
    with httpx.Client(base_url=url, timeout=30, headers=headers or {}) as client:
        for rows in _batches(events, batch):
            at_us = to_us(rows[0]["event_time"])
            first_us = at_us if first_us is None else first_us
            if speed:
                due = began + (at_us - first_us) / 1e6 / speed
                time.sleep(max(0.0, due - time.monotonic()))
            _send(client, rows, report)
            if predict:
                for user in dict.fromkeys(row["user_id"] for row in rows):
                    post(client, "/predict", {"user_id": user})
                    report.predictions += 1
            report.seconds = time.monotonic() - began
            progress(report.sent, events.num_rows)
    return report


def _send(client: httpx.Client, rows: list[dict[str, Any]], report: ReplayReport) -> None:
    body = [_json(row) for row in rows]
    response = post(client, "/events", {"events": body})
    if response.status_code not in (200, 207, 400):
        raise NextbuyError(f"The service answers {response.status_code} to events: {response.text}")
    result = response.json()
    report.sent += len(rows)
    report.accepted += result.get("accepted", 0)
    report.duplicates += result.get("duplicates", 0)
    report.refused += [
        f"{rows[each['index']]['event_id']}: {each['error']}" for each in result.get("refused", ())
    ]


def post(client: httpx.Client, path: str, body: dict[str, Any]) -> httpx.Response:
    """Send, again and again while the service is away or overloaded.

    Raises:
        NextbuyError: it was so for `RETRY_FOR_SECONDS`.
    """
    deadline = time.monotonic() + RETRY_FOR_SECONDS
    while True:
        try:
            response = client.post(path, json=body)
            if response.status_code not in RETRIED_STATUS:
                return response
            reason = f"it answers {response.status_code}"
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
        if time.monotonic() > deadline:
            raise NextbuyError(
                f"The service at {client.base_url} does not accept events: {reason}. Start it with "
                "`nextbuy serve` and replay again; events it has already are not counted twice."
            )
        time.sleep(RETRY_SECONDS)


def _read(file: Path) -> pa.Table:
    try:
        table = pq.read_table(file, partitioning=None)
        return table.select(EVENT_SCHEMA.names).cast(EVENT_SCHEMA)
    except (OSError, KeyError, pa.ArrowException) as error:
        raise NextbuyError(
            f"{file} is no file of canonical events ({error}). Give files of the simulated shop's "
            "log, or of the events/ folder that `nextbuy ingest` made of another log."
        ) from None


def _batches(events: pa.Table, size: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, events.num_rows, size):
        yield events.slice(start, size).to_pylist()


def _json(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.isoformat() if name == "event_time" else value
        for name, value in row.items()
        if value is not None
    }
