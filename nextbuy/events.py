"""The canonical event and what makes it valid, defined here alone.

Ingestion (nextbuy/ingest/row_rules.py), the checks of the published table
(monitoring/suites/events.py) and `POST /events` (bento/event_writer.py) take their limits from it.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, NamedTuple

import pyarrow as pa
from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)


class EventType(StrEnum):
    """What a shopper can do."""

    VIEW = "view"
    SCROLL = "scroll"
    ADD_TO_CART = "add_to_cart"
    REMOVE_FROM_CART = "remove_from_cart"
    PURCHASE = "purchase"
    LOGIN = "login"
    """Links the anonymous visitors seen in the same `source_session_id` to `user_id`,
    from this moment on. The only type without an item."""


EVENT_SCHEMA = pa.schema(
    [
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("event_time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("event_type", pa.string(), nullable=False),
        pa.field("item_id", pa.string()),  # null for a login alone
        pa.field("category", pa.string()),
        pa.field("brand", pa.string()),
        # Money is whole cents: integer sums are exact, in any order, on any engine.
        pa.field("price", pa.int64()),  # cents of one piece, after the discount
        pa.field("discount", pa.int64()),  # cents taken off the list price
        pa.field("source_session_id", pa.string()),  # the shop's own session, if it has one
    ]
)
"""Arrow types of the canonical event, in column order. `price + discount` is the list price."""

TYPE_ORDER = (
    EventType.LOGIN,
    EventType.VIEW,
    EventType.SCROLL,
    EventType.ADD_TO_CART,
    EventType.REMOVE_FROM_CART,
    EventType.PURCHASE,
)
"""The order of events at one moment, as things happen in a shop: a log-in before what it led to, a
purchase last. Orders, logs of whole days and trackers that send in batches give many events one
time."""

COMPUTED_SCHEMA = pa.schema(
    [
        pa.field("event_us", pa.int64())
        if field.name == "event_time"
        else field.with_nullable(True)
        for field in EVENT_SCHEMA
    ]
)
"""The canonical event as definitions see it: `event_us` is microseconds since 1970, UTC."""

SHOPPER_COLUMNS = ("user_id",)
"""Columns of an event, and of each table made of events, that hold a shopper's id; no other column
does. A schema of another kind names its own beside it. Erasure looks at these columns alone."""

REQUIRED = ("user_id", "event_time", "event_type")
"""What every log must bring; an `event_id` is derived where a log has none."""

EVENT_ORDER = ("event_time", "event_id")
"""The total order of one shopper's events: ties in time are broken by id."""


class TimeLimits(NamedTuple):
    """When an event may have happened.

    They differ by the way an event comes in, because so does the harm of a wrong time. A log is a
    record of the past: a day ahead of the clock is tolerated, as that is what a wrong time zone or
    a file dated by local midnight amounts to. A live event is sent as it happens, so it can only be
    ahead by the difference of two clocks; one that is further ahead would stay the newest of its
    shopper and distort every prediction until the clock reaches it. How old a live event may be is
    the service's lateness, counted from the newest event.
    """

    not_before: datetime
    """Earliest moment in a log, unless its source says otherwise."""
    earliest: datetime
    """Earliest moment that a source may allow: no shop had a click log before."""
    max_ahead: timedelta
    """How far a log may be ahead of the clock; a source may only allow less."""
    max_ahead_live: timedelta
    """How far a live event may be ahead of the clock."""


TIME_LIMITS = TimeLimits(
    not_before=datetime(2000, 1, 1, tzinfo=UTC),
    earliest=datetime(1995, 1, 1, tzinfo=UTC),
    max_ahead=timedelta(days=1),
    max_ahead_live=timedelta(minutes=5),
)
TEXT_COLUMNS = ("event_id", "user_id", "item_id", "category", "brand", "source_session_id")
"""Free texts, of 1 to `MAX_TEXT` characters, none of them of `NOT_IN_TEXT`."""
MONEY_COLUMNS = ("price", "discount")
"""Whole cents from 0 to `MAX_CENTS`."""
WITHOUT_ITEM = EventType.LOGIN
"""The one event type without an item."""
PLACEHOLDERS = (
    "",
    "-",
    "--",
    "-1",
    "0",
    "#n/a",
    "<na>",
    "<null>",
    "(none)",
    "(not set)",
    "(other)",
    "(null)",
    "\\n",  # \N, as databases dump a NULL
    "anonymous",
    "guest",
    "n/a",
    "na",
    "nan",
    "nat",
    "nil",
    "none",
    "not set",
    "null",
    "undefined",
    "unknown",
    "[object object]",
    "00000000-0000-0000-0000-000000000000",
)
"""Texts that trackers and exports write where an id is missing, without case and outer blanks.

Taken for an id, one of them would be a shopper made of all visitors without an id."""
MAX_TEXT = 256
MAX_CENTS = 10**12
NOT_IN_TEXT = "[\\x00-\\x1f\\x7f-\\x9f\u2028\u2029]"
"""What no text may have, as a regular expression of Python, DuckDB and JSON Schema alike.

Control characters (C0, DEL, C1) end strings and lines in what stores, logs and displays them: a
NUL in a shopper's id once stopped the live features of a whole shop. The line and the paragraph
separator (U+2028, U+2029) end lines too. Other invisible characters stay: joiners and marks of
direction belong to the writing of many languages.
"""
_REFUSED = re.compile(f"{NOT_IN_TEXT[:-1]}\ud800-\udfff]")  # half a character: no UTF-8 has it


def check_text(text: Any) -> Any:
    """The same text.

    Raises:
        ValueError: it has a control character, or half of one; the message says which and where.
    """
    if isinstance(text, str) and (match := _REFUSED.search(text)):
        raise ValueError(
            f"has the character U+{ord(match[0]):04X} at position {match.start() + 1}, which no "
            "text may have; send it without"
        )
    return text


Text = Annotated[
    str,
    BeforeValidator(check_text),
    Field(
        min_length=1,
        max_length=MAX_TEXT,
        json_schema_extra={"pattern": f"^[^{NOT_IN_TEXT[1:-1]}]*$"},
    ),
]
Cents = Annotated[int, Field(ge=0, le=MAX_CENTS)]


def why_invalid(event: Mapping[str, Any]) -> str | None:
    """Why an event that an older version took is none today, or None: see `NOT_IN_TEXT`."""
    for name in TEXT_COLUMNS:
        try:
            check_text(event[name])
        except ValueError as error:
            return f"{name} {error}"
    return None


class Event(BaseModel):
    """One canonical event on its way in, as the live path takes it.

    >>> Event(event_id="e1", user_id="u1", event_time="2024-01-01T00:00:00Z",
    ...       event_type="view", item_id="i1").event_type
    <EventType.VIEW: 'view'>
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    event_id: Text
    user_id: Text
    event_time: AwareDatetime
    event_type: EventType
    item_id: Text | None = None
    category: Text | None = None
    brand: Text | None = None
    price: Cents | None = None
    discount: Cents | None = None
    source_session_id: Text | None = None

    @model_validator(mode="after")
    def _item_unless_login(self) -> "Event":
        if self.item_id is None and self.event_type is not WITHOUT_ITEM:
            raise ValueError(f"a {self.event_type} event needs an item_id")
        return self
