"""The rows of a log as SQL sees them; a log may have a list in a row, with an event per element."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nextbuy.ingest.source import FileFormat
from nextbuy.sql import literal


class LogRows(NamedTuple):
    """The rows of some files, for use in SQL."""

    relation: str
    """Relation with `_file`; `_row`, the line of a text file (its header counts) or the row of a
    Parquet file, from 1; `_broken`, why the row could not be cut into columns, else NULL;
    `_position` of the element in its list, from 1, NULL without one; and the columns that
    expressions use. It can be read once."""
    carried: str
    """The columns of `relation` that `raw` is made from."""
    raw: str
    """Expression: the row as JSON text. Costly, so use it only for the rows that need it."""
    texts: dict[str, str]
    """Setting -> expression: the text of its column, NULL without a value."""
    of_element: frozenset[str]
    """The settings whose value comes from the element of a list, not from the row around it."""


class Elements:
    """The list in each row that becomes a row for each of its elements; none without a path.

    Args:
        path: name of the list's column, as the source file has it under `explode`.
    """

    def __init__(self, path: str | None) -> None:
        self.path = path
        self.keys: list[str] = []
        """Pointers into an element, in the order of `_element_cells`."""

    def holds(self, name: str) -> bool:
        """Whether a name means something in the element."""
        return self.path is not None and name.startswith(f"{self.path}.")

    def cells(
        self, names: Sequence[str], samples: Sequence[Any], file_format: FileFormat
    ) -> dict[str, str]:
        """Name -> the text of the element's value; `samples` are elements as Python has them."""
        cells = {}
        for name in filter(self.holds, names):
            inner = name.removeprefix(f"{self.path}.")
            cells[name] = extracted(
                "_element_cells", self.keys, pointers(inner, samples), file_format
            )
        return cells

    def exploded(self, relation: str, elements: str) -> str:
        """The relation with `_element`, `_element_cells` and `_position`.

        Args:
            relation: rows with `_broken`.
            elements: expression: the list as JSON, NULL where a row has none.
        """
        if self.path is None:
            return f"(SELECT *, NULL::BIGINT AS _position FROM {relation})"
        return f"""(
            WITH listed AS (SELECT *, {elements} AS _list FROM {relation}),
            judged AS (
                SELECT * EXCLUDE (_broken), CASE WHEN _broken IS NOT NULL THEN _broken
                    WHEN json_type(_list) NOT IN ('ARRAY', 'NULL') AND _list::VARCHAR <> '""'
                    THEN 'not_a_list' END AS _broken FROM listed
            ), numbered AS (
                SELECT * EXCLUDE (_list), CASE WHEN _broken IS NULL AND json_array_length(_list) > 0
                    THEN json_extract(_list, '$[*]') END AS _all FROM judged
            ), rows AS (
                SELECT * EXCLUDE (_all), unnest(coalesce(_all, [NULL])) AS _element,
                    CASE WHEN _all IS NOT NULL
                        THEN unnest(range(1, coalesce(len(_all), 1) + 1)) END AS _position
                FROM numbered
            )
            SELECT *, {extract_strings("_element", self.keys)} AS _element_cells FROM rows)"""


def pointers(name: str, samples: Sequence[Any]) -> list[str]:
    """JSON pointers of a dotted name: keys may hold dots themselves, as the samples show.

    Without a sample that has it, the name as one key and as nested keys are both tried.

    >>> pointers("user.id", [{"user.id": "ann"}]), pointers("a.b.c", [{"a": {"b.c": 1}}])
    (['/user.id'], ['/a/b.c'])
    >>> pointers("user.id", [])
    ['/user.id', '/user/id']
    """
    for sample in samples:
        if keys := _keys(name, sample):
            return [_pointer(keys)]
    return list(dict.fromkeys([_pointer([name]), _pointer(name.split("."))]))


def _keys(name: str, content: Any) -> list[str] | None:
    """The keys that lead to a name, the longest first; None if they lead nowhere."""
    if not isinstance(content, Mapping):
        return None
    if name in content:
        return [name]
    parts = name.split(".")
    for n in range(len(parts) - 1, 0, -1):
        head, rest = ".".join(parts[:n]), ".".join(parts[n:])
        if head in content and (inner := _keys(rest, content[head])):
            return [head, *inner]
    return None


def _pointer(keys: Sequence[str]) -> str:
    return "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)


def extracted(column: str, keys: list[str], paths: Sequence[str], file_format: FileFormat) -> str:
    """The text at one of some JSON pointers; they are added to `keys`, which `column` extracts."""
    places = []
    for path in paths:
        if path not in keys:
            keys.append(path)
        places.append(f"{column}[{keys.index(path) + 1}]")
    return value_of(
        places[0] if len(places) == 1 else f"coalesce({', '.join(places)})", file_format
    )


def extract_strings(document: str, keys: Sequence[str]) -> str:
    """The texts at JSON pointers of a document, as a list."""
    listed = ", ".join(map(literal, keys))
    return f"json_extract_string({document}, [{listed}])" if keys else "NULL::VARCHAR[]"


def value_of(text: str, file_format: FileFormat) -> str:
    """The text, NULL where the format says that it means "no value"."""
    nulls = ", ".join(map(literal, file_format.nulls))
    return f"CASE WHEN {text} NOT IN ({nulls}) THEN {text} END" if nulls else text
