"""A draft of a mapping as YAML, with the evidence for each line and a mark where it is a guess."""

from collections.abc import Iterable
from pathlib import Path

import yaml

from nextbuy.ingest.draft import Draft, Guess
from nextbuy.ingest.source import Expression, load_sources

WIDTH = 44  # where the comments begin


def draft_text(draft: Draft, logs: list[str], name: str, shipped: Iterable[Path]) -> str:
    """The draft as a source file that `nextbuy ingest` reads.

    Args:
        draft: what the log seems to be.
        logs: the paths to name in the command to try.
        name: what to call the source.
        shipped: source files of known logs, to recognise one of them by its columns.
    """
    sample = draft.sample
    lines = [
        f"# Drafted from the first {len(sample.rows):,} rows of {logs[0]}. A line with a question "
        "mark rests on little: look at it first.",
    ]
    for known in shipped:
        if _has_columns_of(draft, known):
            lines.append(f"# The columns are those of `--source {known.stem}`, which ships.")
    lines += [
        "# Try it, nothing is published:  "
        f"nextbuy check {' '.join(map(_quoted, logs))} --source FILE",
        f"name: {name}",
        f"format: {sample.format}",
    ]
    if sample.delimiter != ",":
        lines.append(f"delimiter: {_scalar(sample.delimiter)}")
    if not sample.has_header:
        names = ", ".join(_scalar(str(column)) for column in sample.rows.columns)
        lines.append(_line(f"columns: [{names}]", "the first line is no header"))
    if sample.explode:
        lines.append(_line(f"explode: {_scalar(sample.explode)}", "an event for each element"))
    lines.append("fields:")
    for field in ("user_id", "event_time", "event_type", "item_id"):
        if field not in draft.fields:
            lines.append(f"  # ? {field}: no column looks like it; name it here")
    lines += [_field(field, guess) for field, guess in draft.fields.items()]
    lines.append("event_types:")
    lines += [
        _line(f"  {_scalar(theirs)}: {guess.column}", guess.evidence, guess.is_sure)
        for theirs, guess in draft.event_types.items()
    ]
    if draft.ignored:
        lines.append("ignored:")
        lines += [
            _line(f"  - {_scalar(theirs)}", f"{why}; or map it under event_types", False)
            for theirs, why in draft.ignored.items()
        ]
    floats = [field for field, guess in draft.fields.items() if _is_float_id(draft, field, guess)]
    if floats:
        lines.append(_line(f"float_ids: [{', '.join(floats)}]", "266079.0 is read as 266079"))
    if draft.time_format != "iso":
        lines += ["time:", f"  format: {_scalar(draft.time_format)}"]
    return "\n".join(lines) + "\n"


def _has_columns_of(draft: Draft, known: Path) -> bool:
    """Whether the log has every plain column that a known log's mapping names."""
    columns = {str(column) for column in draft.sample.rows.columns}
    return any(
        {name for name in source.fields.values() if not isinstance(name, Expression)} <= columns
        for source in load_sources(known)
        if source.format == draft.sample.format and not source.columns
    )


def _is_float_id(draft: Draft, field: str, guess: Guess) -> bool:
    """Whether a column of ids was written as floats."""
    if not field.endswith("_id") or guess.is_expression:
        return False
    known = draft.sample.rows[guess.column].dropna().astype(str)
    return bool(known.str.fullmatch(r"\d+[.]0").all())


def _field(field: str, guess: Guess) -> str:
    value = f"{{sql: {_scalar(guess.column)}}}" if guess.is_expression else _scalar(guess.column)
    return _line(f"  {field}: {value}", guess.evidence, guess.is_sure)


def _line(text: str, comment: str, is_sure: bool = True) -> str:
    return f"{text.ljust(WIDTH)}  # {'' if is_sure else '? '}{comment}"


def _scalar(text: str) -> str:
    """A text as YAML writes it within a line."""
    line: str = yaml.safe_dump(text, default_flow_style=True, allow_unicode=True, width=10**9)
    return line.removesuffix("\n").removesuffix("...").strip()


def _quoted(path: str) -> str:
    return f"'{path}'"
