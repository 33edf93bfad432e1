"""The tables of the live store, and what brings a store of an older version up to date."""

import sqlite3

import pyarrow as pa

from nextbuy.events import COMPUTED_SCHEMA

SQLITE_TYPES = {pa.int64(): "INTEGER", pa.string(): "TEXT"}
COLUMN_TYPES = ", ".join(f"{field.name} {SQLITE_TYPES[field.type]}" for field in COMPUTED_SCHEMA)

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    {COLUMN_TYPES},
    seq INTEGER, -- order of arrival; null for published events
    received_us INTEGER,
    PRIMARY KEY (user_id, event_us, event_id)
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS event_ids ON events (event_id);
CREATE UNIQUE INDEX IF NOT EXISTS arrivals ON events (seq) WHERE seq IS NOT NULL;
CREATE INDEX IF NOT EXISTS logins ON events (source_session_id) WHERE event_type = 'login';
CREATE TABLE IF NOT EXISTS items (item_id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS visits ( -- who used a shop session, and since when
    source_session_id TEXT, user_id TEXT, first_us INTEGER,
    PRIMARY KEY (source_session_id, user_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS visits_in_order ON visits (source_session_id, first_us);
CREATE INDEX IF NOT EXISTS visits_of_user ON visits (user_id);
CREATE TABLE IF NOT EXISTS stale (
    user_id TEXT PRIMARY KEY, since_us INTEGER, error TEXT -- why they could not be computed
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS set_apart ( -- events that could not be worked off
    {COLUMN_TYPES}, seq INTEGER, received_us INTEGER,
    error TEXT NOT NULL, set_apart_us INTEGER NOT NULL, PRIMARY KEY (event_id)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS set_apart_of_user ON set_apart (user_id);
CREATE TABLE IF NOT EXISTS batches ( -- feature rows of one step: when computed, when in Redis
    batch INTEGER PRIMARY KEY AUTOINCREMENT, created_us INTEGER NOT NULL, written_us INTEGER
);
CREATE TABLE IF NOT EXISTS rows (
    batch INTEGER, view TEXT, rows BLOB NOT NULL, PRIMARY KEY (batch, view)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS materialized (
    view TEXT, folder TEXT, newest_us INTEGER, began_us INTEGER, ended_us INTEGER
);
CREATE TABLE IF NOT EXISTS shrunk (view TEXT, began_us INTEGER); -- loads that removed rows
"""

SHOPPER_COLUMNS = {
    "events": "user_id",
    "set_apart": "user_id",
    "visits": "user_id",
    "stale": "user_id",
}
"""Table -> its column that holds a shopper's id. In `rows` the ids are within the serialized
tables (`nextbuy.live.write_history`); the other tables hold none."""


def needs_upgrade(sql: sqlite3.Connection) -> bool:
    """Whether an older version made the store; one without tables yet is new."""
    stale, visits = _columns(sql, "stale"), _columns(sql, "visits")
    return bool(stale and "error" not in stale) or bool(visits and "first_us" not in visits)


def upgrade(sql: sqlite3.Connection) -> None:
    """Bring a store of an older version up to date, within a transaction."""
    stale, visits = _columns(sql, "stale"), _columns(sql, "visits")
    if stale and "error" not in stale:
        sql.execute("ALTER TABLE stale ADD COLUMN error TEXT")
    if visits and "first_us" not in visits:  # it did not say since when
        sql.execute("DROP TABLE visits")
        sql.execute("DROP TABLE IF EXISTS shared")
        (create,) = (part for part in SCHEMA.split(";") if "EXISTS visits (" in part)
        sql.execute(create)
        sql.execute(
            "INSERT INTO visits SELECT source_session_id, user_id, min(event_us) FROM events "
            "WHERE source_session_id IS NOT NULL GROUP BY source_session_id, user_id"
        )


def _columns(sql: sqlite3.Connection, table: str) -> set[str]:
    return {name for _, name, *_ in sql.execute(f"PRAGMA table_info({table})")}
