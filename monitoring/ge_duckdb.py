"""Great Expectations inside DuckDB: runs a suite over a table, and renders its Data Docs.

Nothing of the table enters Python but the sample rows of a message. Great Expectations reaches a
database through SQLAlchemy; this is the part of a dialect that its checks need.
Why not the `duckdb-engine` package: see docs/decisions/013-great-expectations-on-duckdb.md.
"""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import great_expectations as gx
from great_expectations.core import ExpectationSuiteValidationResult, ExpectationValidationResult
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.render.components import (
    RenderedBulletListContent,
    RenderedHeaderContent,
    RenderedSectionContent,
)
from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer
from great_expectations.render.view.view import DefaultJinjaPageView
from sqlalchemy import Connection, text, types
from sqlalchemy.dialects import registry
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.engine.interfaces import ReflectedColumn

import nextbuy.telemetry  # noqa: F401  # before Great Expectations looks at the environment
from monitoring.rules import Check
from nextbuy.atomic import write_text

URL = "duckdb://"


class DuckDBDialect(DefaultDialect):
    """Reads tables and views of one open DuckDB connection; it has no transactions.

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


def run_suite(
    connection: duckdb.DuckDBPyConnection, table: str, name: str, checks: Sequence[Check]
) -> ExpectationSuiteValidationResult:
    """Evaluate checks on a table or view of an open connection.

    Args:
        connection: its database is read through cursors of their own.
        table: the table or view.
        name: of the suite, as the Data Docs show it.
        checks: what to evaluate; `check_name` finds each one's result.
    """
    stores = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)  # no leftovers in /tmp
    context = gx.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=stores, progress_bars=ProgressBarsConfig(globally=False)
        ),
    )
    source = context.data_sources.add_sql(
        "duckdb",
        connection_string=URL,
        create_temp_table=False,
        # Their stub knows of it only in some orders of import.
        kwargs={"creator": _cursors(connection)},  # type: ignore[call-arg, unused-ignore]
    )
    batch = source.add_table_asset(table, table_name=table).add_batch_definition_whole_table("all")
    suite = context.suites.add(gx.ExpectationSuite(name))
    for check in checks:
        severity = "critical" if check.severity == "block" else "warning"
        expectation = check.expectation.copy(
            update={"meta": {"check": check.name}, "severity": severity}
        )
        suite.add_expectation(expectation)
    definition = gx.ValidationDefinition(name=name, data=batch, suite=suite)
    definition = context.validation_definitions.add(definition)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about types that our dialect leaves open, on purpose
        return definition.run(result_format="COMPLETE")


def check_name(result: ExpectationValidationResult) -> str:
    """Name of the check that a result of `run_suite` belongs to."""
    assert result.expectation_config is not None
    return str((result.expectation_config.meta or {})["check"])


def write_page(
    outcome: ExpectationSuiteValidationResult, file: Path, not_applied: Sequence[str]
) -> None:
    """Write the outcome of a suite as a page of Great Expectations' Data Docs.

    `not_applied` gets a section of its own: what has too little to judge is not in the outcome.
    """
    page = ValidationResultsPageRenderer().render(outcome)
    if not_applied:
        section: Any = RenderedSectionContent(
            content_blocks=[
                RenderedHeaderContent(header="Not applied"),
                RenderedBulletListContent(bullet_list=list(not_applied)),
            ],
            section_name="Not applied",
        )
        page.sections.append(section)
    write_text(file, DefaultJinjaPageView().render(page))  # type: ignore[no-untyped-call]


def _cursors(connection: duckdb.DuckDBPyConnection) -> Callable[[], duckdb.DuckDBPyConnection]:
    """Makes connections to the database that `connection` has open, for SQLAlchemy's pool."""

    def connect() -> duckdb.DuckDBPyConnection:
        cursor = connection.cursor()
        cursor.execute("SET TimeZone = 'UTC'")  # a cursor does not take over session settings
        cursor.execute("SET enable_progress_bar = false")
        return cursor

    return connect
