"""Events of requests into the live store, by group commit: one commit for all that wait."""

import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from bento.live_supervisor import Supervisor
from bento.settings import MAX_EVENTS, ServiceSettings
from nextbuy.events import TIME_LIMITS, Event
from nextbuy.live.event_store import COLUMNS, EventRow, LiveStore, Outcome, now_us
from nextbuy.log_span import LogSpan
from nextbuy.settings import Settings
from nextbuy.times import HOUR, MICROSECOND, to_datetime, to_us
from nextbuy.versioned_table import manifest

EVENT = TypeAdapter(Event)


@dataclass(frozen=True)
class WrittenEvents:
    """The outcome of the valid events of one request."""

    outcomes: list[Outcome]
    new_items: list[str]


class EventWriter:
    """Writes the events of many requests to the live store from one thread."""

    def __init__(self, settings: Settings, service: ServiceSettings) -> None:
        self._settings = settings
        self._lateness_us = timedelta(hours=service.lateness_hours) // MICROSECOND
        self.supervisor = Supervisor(settings)
        self._waiting: queue.SimpleQueue[tuple[list[EventRow], Future[WrittenEvents]] | None]
        self._waiting = queue.SimpleQueue()
        self._published = settings.sessions
        self._sessions = _version(self._published)
        self.log_end_us = _log_end(settings)
        """The end of the published log, which what is sent here moves when it is published."""
        self._thread = threading.Thread(target=self._work, name="event-writer", daemon=True)
        self._thread.start()
        if (settings.live / "events.sqlite").exists():
            self.supervisor.wake()  # events of an earlier run may wait

    def close(self) -> None:
        """Write what waits and end the thread and the live worker."""
        self._waiting.put(None)
        self._thread.join()
        self.supervisor.close()

    def submit(self, rows: list[EventRow]) -> Future[WrittenEvents]:
        """Queue the events of one request; the future is done when they are on the disk."""
        future: Future[WrittenEvents] = Future()
        self._waiting.put((rows, future))
        return future

    def read(self, sent: Any) -> EventRow:
        """A canonical event of what was sent.

        Raises:
            ValueError: the event is not valid; the message says why.
        """
        try:
            event = EVENT.validate_python(sent)
        except ValidationError as error:
            raise ValueError(_reasons(error)) from None
        try:
            us = to_us(event.event_time)
        except OverflowError:  # with its offset it lies before the year 1, or after 9999
            raise ValueError("event_time is out of range") from None
        if us > now_us() + TIME_LIMITS.max_ahead_live // MICROSECOND:
            raise ValueError("event_time lies in the future; correct the sender's clock")
        end_us = self.log_end_us
        if end_us is not None and us < end_us - self._lateness_us:
            raise ValueError(
                f"event_time is more than {self._lateness_us / HOUR:g} hours before the end of the "
                f"published log ({to_datetime(end_us):%Y-%m-%d %H:%M} UTC), which is later than "
                "this service allows; bring it in by nextbuy ingest"
            )
        values = event.model_dump(mode="python") | {
            "event_us": us,
            "event_type": event.event_type.value,
        }
        return EventRow._make(values[name] for name in COLUMNS)

    def is_far_ahead(self, row: EventRow) -> bool:
        """Whether an event lies far after the published log, in which it may be a stray."""
        end_us = self.log_end_us
        return end_us is not None and row.event_us > end_us + self._lateness_us

    def _work(self) -> None:
        store = None
        closing = False
        while not closing:
            waiting = [self._waiting.get()]
            while not self._waiting.empty() and len(waiting) < MAX_EVENTS:
                waiting.append(self._waiting.get())
            closing = None in waiting
            requests = [item for item in waiting if item is not None]
            if not requests:
                continue
            try:
                store = store or LiveStore(self._settings)
                written = self._write(store, [rows for rows, _ in requests])
            except Exception as error:  # whatever it is, each request reports it
                for _, future in requests:
                    future.set_exception(error)
            else:
                for (_, future), each in zip(requests, written, strict=True):
                    future.set_result(each)
                self.supervisor.wake()

    def _write(self, store: LiveStore, requests: list[list[EventRow]]) -> list[WrittenEvents]:
        rows = [row for request in requests for row in request]
        items = {row.item_id for row in rows if row.item_id is not None}
        # Which items are new is not known until the published events are copied.
        unknown = set(store.unknown_items(items) if store.get_meta("published") else ())
        outcomes = store.append(rows, now_us())
        if (version := _version(self._published)) != self._sessions:
            self._sessions, self.log_end_us = version, _log_end(self._settings)
        written, start = [], 0
        for request in requests:
            own = {row.item_id for row in request}
            written.append(
                WrittenEvents(
                    outcomes[start : start + len(request)], sorted(unknown.intersection(own))
                )
            )
            start += len(request)
        return written


def _version(sessions: Path) -> Path | None:
    """Which version of the sessions is published; None without any."""
    return sessions.readlink() if sessions.is_symlink() else None


def _log_end(settings: Settings) -> int | None:
    sessions = manifest(settings.sessions)
    return LogSpan.from_info(sessions.info).end_us if sessions else None


def _reasons(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, e['loc']))[:80] or 'event'}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors(include_url=False, include_input=False, include_context=False)
    )
