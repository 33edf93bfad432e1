"""The ids that log-ins link to a shopper: they must be known before an erasure removes the log-ins.

An anonymous visitor seen in a shop session, up to a log-in of the shopper in that session, was the
shopper. If another shopper logged in with the same visitor's id as well, or the visitor logged in
by itself, the events may be another person's. An id that too many share is no shop session.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from nextbuy.connection import duckdb_connection
from nextbuy.events import EventType
from nextbuy.live.event_store import LiveStore
from nextbuy.settings import Settings
from nextbuy.shop import shop_settings
from nextbuy.sql import literal, read_parquet
from nextbuy.versioned_table import files, manifest

COLUMNS = {
    "user_id": pa.string(),
    "source_session_id": pa.string(),
    "event_type": pa.string(),
    "event_us": pa.int64(),
}


@dataclass(frozen=True)
class LinkedId:
    """An id that a log-in links to the shopper."""

    user_id: str
    events: int
    other_shoppers: tuple[str, ...] = ()
    """Shoppers that log-ins link it to as well."""
    logs_in_itself: bool = False
    """It is a shopper's own id, not an anonymous visitor's."""

    @property
    def is_theirs_alone(self) -> bool:
        """Whether what it did was certainly the shopper."""
        return not self.other_shoppers and not self.logs_in_itself

    def __str__(self) -> str:
        text = f"{self.user_id} ({self.events:,} event{'s' * (self.events != 1)}"
        if self.logs_in_itself:
            text += "; it has log-ins of its own"
        if self.other_shoppers:
            text += f"; {', '.join(self.other_shoppers[:3])} logged in with it too"
        return f"{text})"


def linked_ids(settings: Settings, user: str) -> tuple[list[LinkedId], list[str]]:
    """The visitors that turned out to be this shopper; the shoppers this visitor turned out to be.

    Log-ins count that are published, and those that have only arrived live.
    """
    with _events(settings) as connection:
        connection.execute(
            f"""CREATE TEMP TABLE logins AS SELECT user_id, source_session_id, event_us
            FROM seen WHERE event_type = {literal(EventType.LOGIN.value)}"""
        )
        most = shop_settings(settings).sessions.max_shoppers
        # An id that too many use is no shop session from the first one too many on.
        connection.execute(
            f"""CREATE TEMP VIEW pairs AS
            WITH visits AS (SELECT user_id, source_session_id, min(event_us) AS first_us
                FROM seen SEMI JOIN logins USING (source_session_id) GROUP BY ALL),
            numbered AS (SELECT *, row_number() OVER (
                PARTITION BY source_session_id ORDER BY first_us, user_id) AS number FROM visits),
            crowds AS (SELECT source_session_id, min(first_us) AS crowded_us
                FROM numbered WHERE number > {most} GROUP BY ALL)
            SELECT visits.user_id AS visitor_id, logins.user_id AS shopper_id
            FROM visits JOIN logins USING (source_session_id)
            LEFT JOIN crowds USING (source_session_id)
            WHERE visits.user_id <> logins.user_id AND first_us <= logins.event_us
                AND (crowded_us IS NULL OR logins.event_us < crowded_us)"""
        )
        visitors = connection.execute(
            """WITH theirs AS (SELECT DISTINCT visitor_id FROM pairs WHERE shopper_id = $user)
            SELECT visitor_id,
                (SELECT count(*) FROM seen WHERE user_id = visitor_id),
                list_sort(list(DISTINCT shopper_id) FILTER (shopper_id <> $user)),
                visitor_id IN (SELECT user_id FROM logins)
            FROM pairs SEMI JOIN theirs USING (visitor_id)
            GROUP BY visitor_id ORDER BY visitor_id""",
            {"user": user},
        ).fetchall()
        shoppers = connection.execute(
            "SELECT DISTINCT shopper_id FROM pairs WHERE visitor_id = $user ORDER BY 1",
            {"user": user},
        ).fetchall()
    linked = [
        LinkedId(visitor, events, tuple(others or ()), is_shopper)
        for visitor, events, others, is_shopper in visitors
    ]
    return linked, [shopper for (shopper,) in shoppers]


@contextmanager
def _events(settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the relation `seen`: the published events, and those that arrived live."""
    with duckdb_connection(settings) as connection:
        connection.register("arrived", _arrived(settings))
        relations = ["SELECT * FROM arrived"]
        if manifest(settings.events) is not None:
            relations.append(
                "SELECT user_id, source_session_id, event_type, epoch_us(event_time) AS event_us "
                f"FROM {read_parquet(files(settings.events))}"
            )
        connection.execute(f"CREATE TEMP VIEW seen AS {' UNION ALL '.join(relations)}")
        yield connection


def _arrived(settings: Settings) -> pa.Table:
    rows: list[tuple[object, ...]] = []
    if (settings.live / "events.sqlite").exists():
        with LiveStore(settings) as store:
            rows = store.sql.execute(
                f"SELECT {', '.join(COLUMNS)} FROM events WHERE seq IS NOT NULL"
            ).fetchall()
    columns = list(zip(*rows, strict=True)) or [()] * len(COLUMNS)
    return pa.table(
        {
            name: pa.array(column, kind)
            for (name, kind), column in zip(COLUMNS.items(), columns, strict=True)
        }
    )
