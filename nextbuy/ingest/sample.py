"""The first rows of a log of any kind, and how the file is written: what a draft is made from."""

import csv
import io
import json
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from nextbuy.errors import NextbuyError
from nextbuy.ingest.lines import open_text

SAMPLE_ROWS = 50_000
DELIMITERS = ",;\t|"
Row = dict[str, str | None]


@dataclass(frozen=True)
class LogSample:
    """Rows of a log as text, one column for each of its columns, dotted where it nests."""

    rows: pd.DataFrame
    format: str
    """`csv`, `jsonl` or `parquet`."""
    delimiter: str = ","
    has_header: bool = True
    explode: str | None = None
    """The list whose elements the rows are."""


def take_sample(file: Path) -> LogSample:
    """The first rows of a file.

    Raises:
        NextbuyError: the file cannot be read, or has no rows.
    """
    try:
        with file.open("rb") as raw:
            is_parquet = raw.read(4) == b"PAR1"
        if is_parquet:
            return _of_parquet(file)
        with open_text(file) as (text, _):
            lines = [line.decode("utf-8-sig") for line in islice(text, SAMPLE_ROWS)]
    except (OSError, EOFError, UnicodeDecodeError, pa.ArrowInvalid) as error:
        raise NextbuyError(
            f"{file} cannot be read: {error}. Is it CSV, JSON lines or Parquet, in UTF-8?"
        ) from None
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise NextbuyError(f"{file} is empty. Name a log with events in it.")
    sample = _of_json(lines) if lines[0].lstrip().startswith("{") else _of_csv(lines)
    if sample.rows.empty:
        raise NextbuyError(f"{file} has no rows after its header. Name a log with events in it.")
    return sample


def _of_parquet(file: Path) -> LogSample:
    batches = pq.ParquetFile(file).iter_batches(batch_size=SAMPLE_ROWS)
    records = [
        {name: _plain(value) for name, value in row.items()}
        for row in next(iter(batches)).to_pylist()
    ]
    rows, explode = _flat(records)
    return LogSample(rows, "parquet", explode=explode)


def _plain(value: Any) -> Any:
    return value.isoformat(" ") if hasattr(value, "isoformat") else value


def _of_json(lines: list[str]) -> LogSample:
    records = []
    for line in lines:
        try:
            content = json.loads(line)
        except ValueError:
            continue  # ingest will refuse the row with its number
        if isinstance(content, dict):
            records.append(content)
    rows, explode = _flat(records)
    return LogSample(rows, "jsonl", explode=explode)


def _flat(records: list[dict[str, Any]]) -> tuple[pd.DataFrame, str | None]:
    """One row for each record, or each element of the list that holds the items."""
    lists: Counter[str] = Counter()
    flat = [_leaves(record, "", lists) for record in records]
    explode = lists.most_common(1)[0][0] if lists else None
    rows: list[Row] = []
    for record, leaves in zip(records, flat, strict=True):
        elements = _at(record, explode) if explode else None
        for element in elements or [None]:
            inside = _leaves(element, f"{explode}.", Counter()) if element else {}
            rows.append(leaves | inside)
    return pd.DataFrame(rows, dtype=object), explode


def _leaves(content: dict[str, Any], prefix: str, lists: Counter[str]) -> Row:
    """Dotted name -> text of every value below; lists of objects are counted by their name."""
    leaves: Row = {}
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            leaves |= _leaves(value, f"{name}.", lists)
        elif isinstance(value, list):
            objects = [each for each in value if isinstance(each, dict)]
            # GA4 has lists of key and value beside the list of items.
            if objects and not {"key", "value"} >= objects[0].keys():
                lists[name] += 1
        elif value is not None and value != "":
            leaves[name] = value if isinstance(value, str) else json.dumps(value)
    return leaves


def _at(record: dict[str, Any], path: str) -> list[Any] | None:
    content: Any = record
    for key in path.split("."):
        content = content.get(key) if isinstance(content, dict) else None
    return content if isinstance(content, list) else None


def _of_csv(lines: list[str]) -> LogSample:
    counts = {mark: [line.count(mark) for line in lines[:200]] for mark in DELIMITERS}
    # The mark that stands in every line, as often as can be.
    delimiter = max(DELIMITERS, key=lambda mark: (min(counts[mark]), sum(counts[mark])))
    cells = list(csv.reader(io.StringIO("".join(lines)), delimiter=delimiter))
    width = Counter(map(len, cells)).most_common(1)[0][0]
    cells = [row for row in cells if len(row) == width]
    has_header = _is_header(cells[0], cells[1:200])
    names = cells[0] if has_header else [f"c{i}" for i in range(1, width + 1)]
    rows = pd.DataFrame(cells[has_header:], columns=range(width), dtype=object)
    rows.columns = pd.Index(names)
    rows = rows.loc[:, ~rows.columns.duplicated()]
    return LogSample(rows.where(rows != "", None), "csv", delimiter, has_header)


def _is_header(first: list[str], rest: list[list[str]]) -> bool:
    """Whether the first line is unlike the others: no numbers, and no value of theirs."""
    if any(_is_number(cell) for cell in first):
        return False
    values = [{row[i] for row in rest} for i in range(len(first))]
    return not any(cell in known for cell, known in zip(first, values, strict=True) if cell)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
