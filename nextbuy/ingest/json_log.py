"""JSON lines as rows of text columns."""

import json
import zlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from nextbuy.errors import NextbuyError
from nextbuy.events import REQUIRED
from nextbuy.ingest.columns import ColumnSpecs, named
from nextbuy.ingest.lines import open_text
from nextbuy.ingest.rows import Elements, LogRows, extract_strings, extracted, pointers
from nextbuy.ingest.source import FileFormat
from nextbuy.sql import literal

SAMPLE_LINES = 1000  # of each file, read to learn which keys a log has


def json_rows(
    file_format: FileFormat, files: Sequence[Path], specs: ColumnSpecs, explode: str | None
) -> LogRows:
    """The objects in `_lines` as rows; `explode` is the path of a list in them.

    Raises:
        NextbuyError: a column that every event must have is in no object, or no file has one.
    """
    samples = _samples(files)
    elements = Elements(explode)
    _check_required(files[0], specs, samples, elements)
    top = list(dict.fromkeys(key for sample in samples for key in sample))
    keys: list[str] = []
    outer = [name for name in dict.fromkeys([*specs.names, *top]) if not elements.holds(name)]
    cells = {
        name: extracted("_cells", keys, pointers(name, samples), file_format) for name in outer
    }
    listed, inside = "NULL", []
    if explode:
        # The first of its spellings that is there.
        places = ", ".join(f"json_extract(_line, {literal(p)})" for p in pointers(explode, samples))
        listed = f"CASE WHEN _broken IS NULL THEN coalesce({places}) END"
        inside = [element for sample in samples for element in _elements(sample, explode)]
    inner = elements.cells(specs.names, inside, file_format)
    checked = """(
        SELECT *, CASE WHEN _unread IS NOT NULL THEN _unread WHEN NOT json_valid(_line)
            OR json_type(_line) <> 'OBJECT' THEN 'not_a_json_object' END AS _broken
        FROM _lines WHERE _line <> '')"""
    known = list(dict.fromkeys([*top, *specs.plain.values()]))
    spelt = {name.casefold() for name in known}
    unknown = [name for name in outer if name.casefold() not in spelt]  # an expression's own
    visible = [*specs.visible(files[0], [*known, *unknown]), *inner]
    columns = named(cells | inner, visible)
    relation = f"""(
        WITH cut AS (
            SELECT *, CASE WHEN _broken IS NULL THEN {extract_strings("_line", keys)} END AS _cells
            FROM {elements.exploded(checked, listed)}
        )
        SELECT {", ".join(["*", *columns])} FROM cut)"""
    raw = "CASE WHEN _broken IS NULL THEN _line ELSE json_object('line', _line) END"
    return LogRows(relation, "_line", raw, specs.texts(cells | inner), specs.of(set(inner)))


def _check_required(
    file: Path, specs: ColumnSpecs, samples: Sequence[dict[str, Any]], elements: Elements
) -> None:
    """A JSON log may leave out what is null, so only what every event has must be there."""
    top = list(dict.fromkeys(key for sample in samples for key in sample))
    for setting, name in specs.plain.items():
        if setting in {f"fields.{column}" for column in REQUIRED} and not elements.holds(name):
            is_there = name in top or any(name.startswith(f"{key}.") for key in top)
            if not is_there:
                specs.check(file, top, {setting: name})


def _samples(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The objects in the first lines of each file."""
    samples = []
    for file in files:
        try:
            with open_text(file) as (text, _):
                for line in islice(text, SAMPLE_LINES):
                    try:
                        content = json.loads(line)
                    except ValueError:
                        continue  # the row will be refused with its number
                    if isinstance(content, dict):
                        samples.append(content)
        except (OSError, EOFError, zlib.error) as error:
            raise NextbuyError(f"{file} cannot be read: {error}. Fetch it again.") from None
    if not samples:
        named_files = ", ".join(str(file) for file in files[:3])
        raise NextbuyError(
            f"{named_files} holds no JSON object in its first lines. Write one object per line."
        )
    return samples


def _elements(sample: Any, path: str) -> list[Any]:
    """The elements of the list at a dotted path of a sample."""
    for pointer in pointers(path, [sample]):
        content = sample
        for key in pointer[1:].split("/"):
            key = key.replace("~1", "/").replace("~0", "~")
            content = content.get(key) if isinstance(content, dict) else None
        if isinstance(content, list):
            return content
    return []
