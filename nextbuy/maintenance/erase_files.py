"""The rows of shoppers in files: Parquet tables, the quarantine, samples of checks, JSON.

Each function counts what is the shoppers' and, with `remove`, takes it out. A row is theirs if a
column that holds a shopper's id equals one of the ids, nothing else. A file is replaced only after
the new one was read back and holds every row of everybody else.
"""

import json
import mmap
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nextbuy.atomic import replacing, write_text
from nextbuy.errors import NextbuyError
from nextbuy.events import EVENT_SCHEMA, SHOPPER_COLUMNS
from nextbuy.ingest.source import load_sources
from nextbuy.maintenance.places import ShopFile
from nextbuy.settings import PROJECT
from nextbuy.versioned_table import ROW_GROUP, Manifest, file_digest

NOTHING_READ = "{}"
MESSAGES = {"error", "message", "observed"}
"""Keys of a report whose text is a sentence, which may quote an example row."""


class RowCounts(NamedTuple):
    """What a file holds of the shoppers."""

    theirs: int = 0
    others: int = 0
    """Rows that were chosen and are not theirs: 0, or nothing is removed."""
    unattributed: int = 0
    """Refused rows that mention an id, but cannot be read, so that they may be another's."""


def rows_in(
    file: ShopFile, ids: Collection[str], *, remove: bool, unattributed: bool = False
) -> RowCounts:
    """What a file holds of the shoppers; with `remove`, it is gone afterwards.

    Raises:
        NextbuyError: the new file would lack a row of another shopper; this file is not changed.
    """
    path, place = file
    match place.holds if place else None:
        case "rows":
            return parquet_rows(path, file.shopper_columns, ids, remove=remove)
        case "refused":
            return refused_rows(
                path,
                file.shopper_columns,
                ids,
                remove=remove,
                unattributed=unattributed,
            )
        case "samples":
            return sampled_rows(path, ids, remove=remove)
        case "document":
            return document_rows(path, ids, remove=remove)
    return RowCounts()


@cache
def _mapped_as(folder: str) -> str | None:
    """The column of a refused raw row that holds the shopper, by the quarantine folder's name.

    None where that is not known: the mapping is not in `configs/sources`, or is an expression.
    """
    name = folder.rpartition("-")[0]
    if name.startswith("check-"):  # rows of a table
        return SHOPPER_COLUMNS[0]
    mapping = PROJECT / "configs" / "sources" / f"{name}.yaml"
    if not mapping.exists():
        return None
    source, *more = load_sources(mapping)
    column = source.fields["user_id"]
    is_plain = (
        isinstance(column, str) and source.explode is None and not source.float_ids and not more
    )
    return str(column) if is_plain else None


def text_is_in(file: Path, ids: Collection[str]) -> bool:
    """Whether a file without columns of shoppers holds one of the ids as a word."""
    if file.suffix == ".parquet":
        return _texts_equal(file, ids)
    if not file.stat().st_size:
        return False
    with (
        file.open("rb") as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        words = (rb"(?<![\w-])" + re.escape(user.encode()) + rb"(?![\w-])" for user in ids)
        return any(re.search(word, content) for word in words)


def _texts_equal(file: Path, ids: Collection[str]) -> bool:
    parquet = pq.ParquetFile(file)
    texts = [field.name for field in parquet.schema_arrow if pa.types.is_string(field.type)]
    rows = (parquet.read_row_group(i, texts) for i in range(parquet.num_row_groups))
    return any(pc.any(_is_theirs(part, texts, ids)).as_py() for part in rows)


def parquet_rows(
    file: Path, columns: Sequence[str], ids: Collection[str], *, remove: bool
) -> RowCounts:
    """The rows of a Parquet file whose columns of shoppers hold one of the ids.

    Raises:
        NextbuyError: the new file would lack a row of another shopper; nothing is changed.
    """
    parquet = pq.ParquetFile(file)
    present = [name for name in columns if name in parquet.schema_arrow.names]
    if not present:
        return RowCounts()
    theirs, others = 0, 0
    for i in range(parquet.num_row_groups):
        rows = parquet.read_row_group(i, present)
        chosen = rows.filter(_is_theirs(rows, present, ids))
        theirs += chosen.num_rows
        others += sum(ids_of(owner).isdisjoint(ids) for owner in owners_of(chosen, present))
    if not theirs or not remove or others:
        return RowCounts(theirs, others)

    def rows_by_owner(of: pq.ParquetFile) -> Counter[Any]:
        return Counter(owners_of(of.read(present), present))

    expected = rows_by_owner(parquet)
    for owner in [each for each in expected if not ids_of(each).isdisjoint(ids)]:
        del expected[owner]
    whole = (parquet.read_row_group(i) for i in range(parquet.num_row_groups))
    left = (rows.filter(pc.invert(_is_theirs(rows, present, ids))) for rows in whole)
    _replace(file, parquet.schema_arrow, left, expected, rows_by_owner)
    update_manifest(file, theirs)
    return RowCounts(theirs)


def owners_of(rows: pa.Table, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Row by row, the values of the columns of shoppers."""
    return list(zip(*(rows[name].to_pylist() for name in columns), strict=True))


def ids_of(owner: tuple[Any, ...]) -> set[str]:
    """The ids in the columns of one row."""
    return {shopper for shopper in owner if shopper is not None}


def refused_rows(
    file: Path,
    columns: Sequence[str],
    ids: Collection[str],
    *,
    remove: bool,
    unattributed: bool = False,
) -> RowCounts:
    """The same of a quarantine file; with `unattributed`, also rows that only mention an id.

    A refused row is a shopper's by the cell that the mapping takes for the shopper, which is kept
    beside the raw row. Files of older versions lack it: there the raw row itself is read, as an
    event, or by the column of the log that the source maps to the shopper, where that is known. A
    row of which neither says anything is unattributed.

    Raises:
        NextbuyError: as `parquet_rows`.
    """
    parquet = pq.ParquetFile(file)
    table = parquet.read()
    raws = table["raw"].to_pylist()
    kept = next((table[name].to_pylist() for name in columns if name in table.column_names), None)
    mapped_as = None if kept is not None else _mapped_as(file.parent.name)
    owners = kept if kept is not None else [_owner(raw, mapped_as) for raw in raws]
    is_theirs = [owner in ids for owner in owners]
    is_unclear = [
        owner is None and mentions(raw, ids) for owner, raw in zip(owners, raws, strict=True)
    ]
    counts = RowCounts(sum(is_theirs), unattributed=sum(is_unclear))
    stays = [
        not (named or (unclear and unattributed))
        for named, unclear in zip(is_theirs, is_unclear, strict=True)
    ]
    if remove and not all(stays):
        expected = Counter(raw for raw, stay in zip(raws, stays, strict=True) if stay)
        _replace(
            file,
            parquet.schema_arrow,
            [table.filter(pa.array(stays, pa.bool_()))],
            expected,
            lambda written: Counter(written.read(["raw"])["raw"].to_pylist()),
        )
    return counts


def _owner(raw: str | None, mapped_as: str | None) -> str | None:
    """Whose a raw row is, as far as it says so itself."""
    try:
        cells = json.loads(raw or NOTHING_READ)
    except ValueError:
        return None
    if not isinstance(cells, dict):
        return None
    if EVENT_SCHEMA.names[0] in cells and cells.keys() <= set(EVENT_SCHEMA.names):
        return next((cells[name] for name in SHOPPER_COLUMNS if name in cells), None)
    owner: Any = cells
    for part in (mapped_as or "").split("."):
        owner = owner.get(part) if isinstance(owner, dict) else None
    return None if owner is None or isinstance(owner, dict | list) else str(owner)


def mentions(raw: str | None, ids: Collection[str]) -> bool:
    """Whether a raw row has an id as one of its values or, where it was not cut, as a word."""
    if raw is None:
        return False
    try:
        document = json.loads(raw)
    except ValueError:
        document = {"line": raw}
    if isinstance(document, dict) and document.keys() == {"line"}:
        line = str(document["line"])
        return any(re.search(rf"(?<!\w){re.escape(user)}(?!\w)", line) for user in ids)
    return any(str(value) in ids for value in _values(document))


def _values(document: Any) -> Iterator[Any]:
    if isinstance(document, dict):
        for value in document.values():
            yield from _values(value)
    elif isinstance(document, list):
        for value in document:
            yield from _values(value)
    elif document is not None:
        yield document


def sampled_rows(file: Path, ids: Collection[str], *, remove: bool) -> RowCounts:
    """The example rows of check results: they are taken out of their list, the results stay."""
    parquet = pq.ParquetFile(file)
    table = parquet.read()
    count, texts = 0, []
    for text in table["sample"].to_pylist():
        document, named = without(json.loads(text) if text else None, ids)
        count += named
        texts.append(json.dumps(document) if named else text)
    if count and remove:
        at = table.schema.get_field_index("sample")
        changed = table.set_column(at, table.schema.field(at), pa.array(texts, pa.string()))
        with replacing(file, durable=True) as temporary:
            pq.write_table(changed, temporary, compression="zstd")
    return RowCounts(count)


def document_rows(file: Path, ids: Collection[str], *, remove: bool) -> RowCounts:
    """Objects of a JSON file that are about one of the shoppers; the rest of the file stays."""
    try:
        document, count = without(json.loads(file.read_text()), ids)
    except ValueError:  # cut short by a crash: it says nothing
        return RowCounts()
    if count and remove:
        write_text(file, json.dumps(document, indent=1), durable=True)
    return RowCounts(count)


def without(document: Any, ids: Collection[str]) -> tuple[Any, int]:
    """A JSON document without what is about these shoppers, and how many places that were.

    An object is about a shopper by its `user_id`: it leaves its list, or becomes null. So does an
    example row that the message of an error quotes.

    >>> without([{"user_id": "ann"}, {"user_id": "bob", "item_id": "ann"}], {"ann"})
    ([{'user_id': 'bob', 'item_id': 'ann'}], 1)
    """
    if isinstance(document, dict):
        if any(document.get(name) in ids for name in SHOPPER_COLUMNS if name in document):
            return None, 1
        pairs = {
            key: _without_examples(value, ids)
            if key in MESSAGES and isinstance(value, str)
            else without(value, ids)
            for key, value in document.items()
        }
        return {key: value for key, (value, _) in pairs.items()}, sum(n for _, n in pairs.values())
    if isinstance(document, list):
        pruned = [(each, *without(each, ids)) for each in document]
        kept = [left for each, left, _ in pruned if left is not None or each is None]
        return kept, sum(n for _, _, n in pruned)
    return document, 0


def _without_examples(message: str, ids: Collection[str]) -> tuple[str, int]:
    """A message in which the quoted JSON objects about these shoppers are null."""
    pieces, at, count = [], 0, 0
    while (start := message.find("{", at)) != -1:
        pieces.append(message[at:start])
        try:
            quoted, at = json.JSONDecoder().raw_decode(message, start)
        except ValueError:  # a brace of the text
            quoted, at = None, start + 1
        left, named = without(quoted, ids)
        pieces.append(json.dumps(left) if named else message[start:at])
        count += named
    return "".join([*pieces, message[at:]]), count


def _is_theirs(rows: pa.Table, columns: Sequence[str], ids: Collection[str]) -> pa.Array:
    chosen = pa.repeat(pa.scalar(False), rows.num_rows)
    for name in columns:
        texts = rows[name].cast(pa.string()).combine_chunks()
        chosen = pc.or_(chosen, pc.is_in(texts, pa.array(sorted(ids), pa.string())))
    return chosen


def _replace(
    file: Path,
    schema: pa.Schema,
    left: Iterable[pa.Table],
    expected: Counter[Any],
    count: Callable[[pq.ParquetFile], Counter[Any]],
) -> None:
    """Put the rows of the others in the file's place, once they are all read back from there.

    Raises:
        NextbuyError: one is missing; the file stays as it is.
    """
    with replacing(file, durable=True) as temporary:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for rows in left:
                if rows.num_rows:
                    writer.write_table(rows, ROW_GROUP)
        written = count(pq.ParquetFile(temporary))
        if written != expected:
            lost = (expected - written).total()
            raise NextbuyError(
                f"{file} was left as it is: the file without these shoppers lacks {lost:,} rows "
                "of others. This is a fault of Nextbuy; please report it."
            )


def update_manifest(file: Path, removed: int) -> None:
    """Give the version the file's new digest, so that tables made from it are out of date."""
    path = file.parents[1] / "manifest.json"
    if not path.exists():
        return
    old = Manifest.model_validate_json(path.read_text())
    day = file.parent.name.removeprefix("day=")
    days = old.days | {day: file_digest(file)}
    new = old.model_copy(update={"days": days, "rows": old.rows - removed})
    write_text(path, new.model_dump_json(indent=1), durable=True)
