"""The refused rows of a log: where they are written, why, and what to do about it."""

from pathlib import Path

import duckdb

from nextbuy.atomic import replacing
from nextbuy.events import MAX_TEXT
from nextbuy.sql import literal

SHOPPER_COLUMNS = ("user_id",)
"""Columns of a refused row that hold a shopper's id: the cell that the mapping takes for the
shopper. Null where the cell is empty or the row could not be cut into cells; older files
lack the column."""
MAX_SHOWN = 60  # characters of a value in a message

REMEDIES = {
    "not_utf8": "Convert the file to UTF-8, e.g. with iconv.",
    "stray_quote": "Correct the quotes: each stands at an end of a cell, or doubled within it.",
    "wrong_number_of_cells": "The line is cut short or has a stray delimiter; correct it.",
    "not_a_json_object": "Each line must be one JSON object; correct it at its source.",
    "not_a_list": "The column under explode must hold a list; correct it at its source.",
    "missing_event_type": "Fill in the event's name at its source.",
    "unknown_event_type": "Map the name under event_types, or list it under ignored.",
    "missing_event_id": "Fill it in, or leave fields.event_id out to have ids derived.",
    "conflicting_event_id": "The id stands for another event already. If the column is no unique "
    "id, leave fields.event_id out to have ids derived.",
    "missing_user": "Fill in the user at its source; an anonymous visitor needs an id as well.",
    "placeholder_user": "It stands for no id: give the visitor an id, or name another list under "
    "placeholders if it is one.",
    "placeholder_item": "It stands for no item: correct it at its source, or name another list "
    "under placeholders if it is one.",
    "imprecise_id": "The number went through a double and lost digits: read or export the column "
    "as text or as a whole number.",
    "missing_time": "Fill in the time at its source.",
    "unparsable_time": "Correct time.format in the source file, or the value at its source.",
    "nonexistent_time": "The clock of time.zone went forward over this time and never showed it. "
    "If the log keeps one offset all year, name that (Etc/GMT-1 is UTC+1); else correct the value.",
    "time_too_old": "Correct the value, or set limits.not_before.",
    "time_in_future": "Correct the clock or time.zone, or set limits.max_ahead.",
    "time_after_end": "Correct the clock, or set limits.not_after to a later moment.",
    "missing_item": "Only a login goes without item: fill it in, or list the name under ignored.",
    "unparsable_price": "Give a plain number, e.g. 35.79; other spellings by an sql expression.",
    "negative_price": "Correct it at its source, or map refunds to an ignored event name.",
    "unparsable_discount": "Give a plain number, e.g. 5.00; other spellings by an sql expression.",
    "negative_discount": "Give the amount taken off as a positive number.",
    "text_too_long": f"At most {MAX_TEXT} characters; shorten it by an sql expression.",
    "control_character": "A control character or a line separator; remove it at its source, or by "
    "an sql expression.",
}
"""Reason -> what to do."""


def write(connection: duckdb.DuckDBPyConnection, refused: str, folder: Path) -> None:
    """Write the relation `refused` to `folder`, in place of what an earlier run wrote there."""
    with replacing(folder / "rows.parquet") as file:
        connection.execute(
            f"COPY (SELECT * FROM {refused} ORDER BY file, row, reason, value, raw) "
            f"TO {literal(file)} (FORMAT parquet, COMPRESSION zstd)"
        )


def explain(connection: duckdb.DuckDBPyConnection, refused: str) -> str:
    """A line per reason, the most frequent first: how many rows, an example, and the remedy."""
    reasons = connection.execute(
        f"""SELECT reason, count(*) AS n,
            arg_min(struct_pack(file, row, "column", value), struct_pack(file, row, value)) AS first
        FROM {refused} GROUP BY reason ORDER BY n DESC, reason"""
    ).fetchall()
    lines = []
    for reason, n, first in reasons:
        place = f"{first['file']}, row {first['row']}"
        if first["column"] is not None:
            place += f", column {first['column']}: {_shown(first['value'])}"
        lines.append(f"  {reason}: {n:,} (first: {place}). {REMEDIES[reason]}")
    names = connection.execute(
        f"SELECT value, count(*) AS n FROM {refused} WHERE reason = 'unknown_event_type' "
        "GROUP BY value ORDER BY n DESC, value LIMIT 20"
    ).fetchall()
    if names:
        listed = ", ".join(f"{_shown(name)} ({n:,})" for name, n in names)
        lines.append(f"  Event names not known: {listed}.")
    return "\n".join(lines)


def _shown(value: str | None) -> str:
    if value is None:
        return "no value"
    return repr(value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}…")
