"""The part of a SQLAlchemy dialect that Great Expectations needs to run its checks inside DuckDB.

Why not the `duckdb-engine` package: see docs/decisions/013-great-expectations-on-duckdb.md.
"""

from collections.abc import Callable
from typing import Any

import duckdb
from sqlalchemy import Connection, text, types
from sqlalchemy.dialects import registry
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.engine.interfaces import ReflectedColumn

URL = "duckdb://"


class DuckDBDialect(DefaultDialect):
    """Reads tables and views of one open DuckDB connection; there is nothing to commit.

    Column types are not reflected: the suites compare DuckDB's own type names.
    """

    name = "duckdb"
    driver = "duckdb"
    default_paramstyle = "qmark"
    supports_statement_cache = True

    @classmethod
    def import_dbapi(cls) -> Any:
        """DuckDB's module follows the Python database interface."""
        return duckdb

    def do_begin(self, dbapi_connection: Any) -> None:
        """Nothing to begin."""

    def do_commit(self, dbapi_connection: Any) -> None:
        """Nothing to commit."""

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Nothing to roll back."""

    def _get_server_version_info(self, connection: Connection) -> tuple[int, ...]:
        return tuple(int(part) for part in duckdb.__version__.split(".")[:2])

    def _get_default_schema_name(self, connection: Connection) -> str:
        return "main"

    def has_table(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> bool:
        """Whether there is a table or view of that name."""
        return bool(self.get_columns(connection, table_name, schema))

    def get_columns(
        self, connection: Connection, table_name: str, schema: str | None = None, **kw: Any
    ) -> list[ReflectedColumn]:
        """The columns in order, their types left open."""
        names = connection.execute(
            text(
                "SELECT column_name FROM information_schema.columns "
                "WHERE table_name = :name ORDER BY ordinal_position"
            ),
            {"name": table_name},
        ).fetchall()
        return [
            {"name": name, "type": types.NullType(), "nullable": True, "default": None}
            for (name,) in names
        ]

    def get_table_names(
        self, connection: Connection, schema: str | None = None, **kw: Any
    ) -> list[str]:
        """Tables and views alike."""
        return [
            name
            for (name,) in connection.execute(
                text("SELECT table_name FROM information_schema.tables")
            ).fetchall()
        ]

    def get_view_names(
        self, connection: Connection, schema: str | None = None, **kw: Any
    ) -> list[str]:
        """None beside those that `get_table_names` gives."""
        return []

    def get_schema_names(self, connection: Connection, **kw: Any) -> list[str]:
        """The one schema."""
        return ["main"]


registry.register("duckdb", __name__, "DuckDBDialect")


def cursors(connection: duckdb.DuckDBPyConnection) -> Callable[[], duckdb.DuckDBPyConnection]:
    """Makes connections to the database that `connection` has open, for SQLAlchemy's pool."""

    def connect() -> duckdb.DuckDBPyConnection:
        cursor = connection.cursor()
        cursor.execute("SET TimeZone = 'UTC'")  # a cursor does not take over session settings
        cursor.execute("SET enable_progress_bar = false")
        return cursor

    return connect
