"""How live events are doing: what waits, for how long, and why."""

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from nextbuy.live.event_store import WORKED, LiveStore, now_us
from nextbuy.settings import Settings
from nextbuy.times import SECOND, to_datetime

WORKER, RESTARTS = "worker", "restarts"
"""Meta values of the live store: the worker's last report, and how often it ended by itself."""
SILENT_SECONDS = 15.0
"""A worker reports every two seconds, and between two batches; one that did not for so long is
gone, or at something that takes it very long."""
READ_SECONDS = 2.0  # for the answer of a busy store


class LiveHealth(BaseModel):
    """What waits in the live store, and what its worker last said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    waiting_events: int
    """Acknowledged events whose features are not in Redis yet."""
    oldest_seconds: float
    """Age of the oldest of them since it was acknowledged; 0 without one."""
    set_apart_events: int
    """Events that could not be worked off."""
    set_apart_shoppers: int
    """Shoppers who could not be computed again after a publication."""
    left_out_shoppers: int
    """Shoppers whose features wait for the next batch build: more events or links than are
    followed live."""
    restarts: int
    """How often the worker ended by itself and was started again."""
    restarted_at: datetime | None
    """The last time (UTC)."""
    silent_seconds: float | None
    """Since the worker's last sign of life; None before its first."""
    problem: str | None
    """What the worker waits for, by its last report."""

    @property
    def is_at_work(self) -> bool:
        """Whether a worker gave a sign of life lately."""
        return self.silent_seconds is not None and self.silent_seconds < SILENT_SECONDS

    @property
    def cause(self) -> str:
        """Why events wait, as far as that is known."""
        if self.problem and self.is_at_work:
            return f"The live worker waits: {self.problem}."
        if self.is_at_work:
            return "The live worker is at work, but comes not along."
        restarts = f"; it ended by itself {self.restarts:,} times" if self.restarts else ""
        if self.silent_seconds is None:
            return f"No live worker has been at work{restarts}."
        return f"The live worker has been silent for {_span(self.silent_seconds)}{restarts}."

    @property
    def remedy(self) -> str:
        """What to do about events that wait."""
        if self.problem and self.is_at_work:
            return "Bring that back; nothing is lost, and the worker goes on by itself."
        if self.is_at_work:
            return (
                "Send fewer events at a time, or give the machine more: one core works off a few "
                "thousand a second (docs/live.md)."
            )
        return (
            "Start the service, which has the worker: nextbuy serve. If it runs, the reason is in "
            "its log (logs/ in the data folder)."
        )

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.waiting_events:
            oldest = _span(self.oldest_seconds)
            yield f"{self.waiting_events:,} events wait, the oldest for {oldest}"
            yield f"{self.cause} {self.remedy}"
        else:
            yield "no event waits: Redis has the features of all of them"
        if self.restarts and self.restarted_at:
            last = f"{self.restarted_at:%Y-%m-%d %H:%M} UTC"
            yield f"the worker ended by itself {self.restarts:,} times, the last time {last}"
        if self.left_out_shoppers:
            yield f"shoppers who wait for the next batch build: {self.left_out_shoppers:,}"
        yield f"events set apart: {self.set_apart_events:,}"
        if self.set_apart_shoppers:
            yield f"shoppers set apart: {self.set_apart_shoppers:,}"


def live_health(settings: Settings) -> LiveHealth | None:
    """How live events are doing now; None where none ever came. Takes a millisecond or two.

    Raises:
        sqlite3.Error: the store cannot be read.
    """
    file = settings.live / "events.sqlite"
    if not file.exists():
        return None
    # Read only: it is asked on a thread of the service, and must wait for no writer.
    address = f"{file.resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True, timeout=READ_SECONDS)) as sql:
        tables = {name for (name,) in sql.execute("SELECT name FROM sqlite_schema")}
        meta = dict(sql.execute("SELECT name, value FROM meta").fetchall())
        worker = json.loads(meta.get(WORKER, "{}"))
        restarts = json.loads(meta.get(RESTARTS, "{}"))
        waiting, oldest_us = sql.execute(
            "SELECT count(*), (SELECT received_us FROM events WHERE seq > ?1 ORDER BY seq LIMIT 1) "
            "FROM events WHERE seq > ?1",
            [int(meta.get(WORKED, 0))],
        ).fetchone()
        events = shoppers = 0
        if "set_apart" in tables:  # not yet, in a store that no newer version has opened
            (events,) = sql.execute("SELECT count(*) FROM set_apart").fetchone()
            query = "SELECT count(*) FROM stale WHERE error IS NOT NULL"
            (shoppers,) = sql.execute(query).fetchone()
    now = now_us()
    return LiveHealth(
        waiting_events=waiting,
        oldest_seconds=max(0, now - oldest_us) / SECOND if oldest_us else 0,
        set_apart_events=events,
        set_apart_shoppers=shoppers,
        left_out_shoppers=worker.get("left_out", 0),
        restarts=restarts.get("count", 0),
        restarted_at=to_datetime(restarts["at_us"]) if restarts else None,
        silent_seconds=max(0, now - worker["at_us"]) / SECOND if worker else None,
        problem=worker.get("problem"),
    )


def report_worker(
    store: LiveStore, sequence: int | None, left_out: int, problem: str | None
) -> None:
    """Record a sign of life of the worker, and the last event it worked off, if it knows."""
    report = {"pid": os.getpid(), "at_us": now_us(), "left_out": left_out, "problem": problem}
    with store.transaction():
        if sequence is not None and sequence >= 0:
            store.set_meta(WORKED, sequence)
        store.set_meta(WORKER, json.dumps(report))


def count_restart(settings: Settings) -> None:
    """Record that the worker ended by itself."""
    with LiveStore(settings) as store, store.transaction():
        before = json.loads(store.get_meta(RESTARTS) or "{}")
        after = {"count": before.get("count", 0) + 1, "at_us": now_us()}
        store.set_meta(RESTARTS, json.dumps(after))


def _span(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 90 else str(timedelta(seconds=round(seconds)))
