"""Which columns of a log a mapping reads, and where each of them is.

Names are data: they may be empty, hold dots, spaces and quotes, or differ in case alone. So a
column is reached by its position or exact key, and only what an expression names becomes a column
of a relation, where SQL's own rules hold.
"""

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from nextbuy.errors import NextbuyError
from nextbuy.ingest.source import ColumnSpec, Expression
from nextbuy.sql import identifier

RESERVED = {
    "_file",
    "_row",
    "_line",
    "_broken",
    "_unread",
    "_cells",
    "_element",
    "_element_cells",
    "_position",
    "_values",
}
"""Columns of every relation of log rows that are not the log's own."""


@dataclass(frozen=True)
class ColumnSpecs:
    """The columns that a mapping names, by setting, and those that its expressions use."""

    by_setting: Mapping[str, ColumnSpec]
    used: Mapping[str, tuple[str, ...]]
    """Setting -> names in its expression, as it writes them."""

    @property
    def plain(self) -> dict[str, str]:
        """Setting -> name, for the settings that are no expression."""
        return {key: name for key, name in self.by_setting.items() if isinstance(name, str)}

    def sql(self, setting: str) -> str:
        """The expression under a setting."""
        column = self.by_setting[setting]
        assert isinstance(column, Expression)
        return column.sql

    @property
    def names(self) -> list[str]:
        """Every name, each once."""
        used = (name for names in self.used.values() for name in names if name not in RESERVED)
        return list(dict.fromkeys([*self.plain.values(), *used]))

    def texts(
        self, cells: Mapping[str, str], read: Callable[[str], str] = lambda text: text
    ) -> dict[str, str]:
        """Setting -> the SQL of its text: `cells` has a name's, `read` makes an expression's."""
        return {
            setting: cells[column]
            if isinstance(column, str)
            else read(f"CAST(({column.sql}) AS VARCHAR)")
            for setting, column in self.by_setting.items()
        }

    def of(self, names: Collection[str]) -> frozenset[str]:
        """The settings that read one of these names, or the element itself."""
        plain = {setting for setting, name in self.plain.items() if name in names}
        used = {key for key, uses in self.used.items() if {*names, "_element"} & {*uses}}
        return frozenset(plain | used)

    def visible(self, file: Path, available: Sequence[str]) -> list[str]:
        """The columns that expressions use, as the log spells them; SQL ignores case.

        Raises:
            NextbuyError: a name could mean several columns.
        """
        visible: dict[str, str] = {}
        for setting, names in self.used.items():
            for name in names:
                if name in RESERVED:
                    if name in available:
                        raise NextbuyError(
                            f"{file} has a column {name!r}, which the expression under {setting} "
                            "uses; rename the column: the name is reserved."
                        )
                    continue
                key = name.casefold()
                alike = [other for other in available if other.casefold() == key]
                column = name if name in alike else alike[0] if alike else None
                if len(alike) > 1 and (column != name or visible.get(key, name) != name):
                    raise NextbuyError(
                        f"{file} has the columns {_listed_names(alike)}, which the expression "
                        f"under {setting} cannot tell apart. Name one of them in full, as it is "
                        "written, and use no other of them in an expression."
                    )
                if column is not None:
                    visible[key] = column
        return list(visible.values())

    def check(self, file: Path, available: Sequence[str], required: Mapping[str, str]) -> None:
        """Raise unless every required column is there, by its exact name.

        Raises:
            NextbuyError: one is not, there are two of the name, or it has a name of ours.
        """
        for setting, name in required.items():
            if name not in available:
                raise NextbuyError(
                    f"{file} has no column {name!r}, which the source file names under {setting}. "
                    f"Its columns are: {_listed_names(available)}. Correct {setting}, or leave it "
                    "out if the log has nothing of the kind."
                )
            if list(available).count(name) > 1:
                raise NextbuyError(
                    f"{file} names a column twice, and {setting} means one of them: {name!r}. "
                    "Rename the other."
                )


def column_specs(
    connection: duckdb.DuckDBPyConnection, columns: Mapping[str, ColumnSpec]
) -> ColumnSpecs:
    """Take the names out of the expressions, as DuckDB's own parser sees them.

    Raises:
        NextbuyError: an expression is no SQL.
    """
    used = {}
    for setting, column in columns.items():
        if isinstance(column, Expression):
            used[setting] = tuple(dict.fromkeys(_names_in(connection, setting, column.sql)))
    return ColumnSpecs(columns, used)


def _names_in(connection: duckdb.DuckDBPyConnection, setting: str, sql: str) -> Iterator[str]:
    (text,) = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT ({sql})"]).fetchall()[0]
    tree = json.loads(text)
    if tree["error"]:
        raise not_understood(setting, sql, tree["error_message"])
    yield from _column_names(tree, ())


def _column_names(node: Any, parameters: tuple[str, ...]) -> Iterator[str]:
    """First names of the column references below a node, without parameters of lambdas."""
    if isinstance(node, list):
        for child in node:
            yield from _column_names(child, parameters)
    elif isinstance(node, dict):
        if node.get("class") == "LAMBDA":
            parameters += tuple(_column_names(node["lhs"], ()))
            yield from _column_names(node["expr"], parameters)
        elif node.get("class") == "COLUMN_REF":
            if (name := node["column_names"][0]) not in parameters:
                yield name
        else:
            for child in node.values():
                yield from _column_names(child, parameters)


def not_understood(setting: str, sql: str, message: object) -> NextbuyError:
    """The error for an expression that DuckDB refuses."""
    first = str(message).strip().splitlines()[0]
    return NextbuyError(
        f"{setting}: DuckDB does not understand {sql!r}: {first} Correct it in the source file."
    )


def named(cells: Mapping[str, str], names: Sequence[str]) -> list[str]:
    """Select items that give the cells of these names their name."""
    return [f"{cells[name]} AS {identifier(name)}" for name in names if name in cells]


def _listed_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - 50} more" if len(names) > 50 else ""
    return ", ".join(name or "''" for name in names[:50]) + more
