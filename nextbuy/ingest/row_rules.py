"""Which rows of a log are no valid events, by the limits that nextbuy/events.py defines."""

from typing import NamedTuple

from nextbuy.events import MAX_TEXT, MONEY_COLUMNS, NOT_IN_TEXT, TEXT_COLUMNS, WITHOUT_ITEM
from nextbuy.ingest.source import Source
from nextbuy.sql import literal
from nextbuy.times import MICROSECOND, to_us

UNREADABLE = ("not_utf8", "stray_quote", "wrong_number_of_cells", "not_a_json_object", "not_a_list")
"""Why a row could not be cut into columns, as the log reader says."""


ID_COLUMNS = ("event_id", "user_id", "item_id", "source_session_id")


class RowRule(NamedTuple):
    """One reason to refuse a row; the first that applies is the one recorded."""

    reason: str
    column: str | None
    """Canonical column at fault."""
    condition: str
    """SQL condition that an invalid row meets."""


def is_placeholder(text: str, source: Source) -> str:
    """Condition: a text that stands for a missing id."""
    if not source.placeholders:
        return "false"
    longest = max(map(len, source.placeholders))
    listed = ", ".join(literal(each.casefold()) for each in source.placeholders)
    # Most ids are longer, and bytes are counted faster than blanks are cut off.
    return f"(strlen(trim({text})) <= {longest} AND lower(trim({text})) IN ({listed}))"


def is_imprecise(text: str) -> str:
    """Condition: a whole number that went through a double and lost digits on the way.

    A double holds whole numbers up to 2^53; above, or written with an exponent, several ids have
    become one.
    """
    return (
        f"(contains({text}, '.') OR contains({text}, 'e+') OR contains({text}, 'E+')) AND ("
        rf"regexp_full_match({text}, '-?\d(\.\d+)?[eE]\+?\d+') OR "
        rf"(regexp_full_match({text}, '-?\d+\.0*') AND abs(TRY_CAST({text} AS DOUBLE)) > {2**53}))"
    )


def row_rules(source: Source) -> list[RowRule]:
    """What is refused of this log, in order.

    The conditions see each canonical column's text as `_user_id` and so on, and what became of it:
    `_kind`, `_us` (microseconds since 1970), `_skipped_us` (above 0 for a time that the clock of
    the source's zone leaves out), `_price_cents`, `_discount_cents`; and `_now_us`.
    """
    limits = source.limits
    earliest = to_us(limits.not_before)
    ahead = limits.max_ahead // MICROSECOND
    rules = [
        *(RowRule(reason, None, f"_broken = {literal(reason)}") for reason in UNREADABLE),
        RowRule("missing_event_type", "event_type", "_event_type IS NULL"),
        RowRule("unknown_event_type", "event_type", "_kind IS NULL"),
        RowRule("missing_event_id", "event_id", "_event_id IS NULL"),
        RowRule("missing_user", "user_id", "_user_id IS NULL"),
        RowRule("placeholder_user", "user_id", is_placeholder("_user_id", source)),
        RowRule("missing_time", "event_time", "_event_time IS NULL"),
        RowRule("unparsable_time", "event_time", "_us IS NULL"),
        RowRule("nonexistent_time", "event_time", "_skipped_us > 0"),
        RowRule("time_too_old", "event_time", f"_us < {earliest}"),
        RowRule("time_in_future", "event_time", f"_us > _now_us + {ahead}"),
        *(
            [RowRule("time_after_end", "event_time", f"_us > {to_us(limits.not_after)}")]
            if limits.not_after
            else []
        ),
        RowRule("missing_item", "item_id", f"_item_id IS NULL AND _kind <> '{WITHOUT_ITEM}'"),
        RowRule(
            "placeholder_item",
            "item_id",
            f"{is_placeholder('_item_id', source)} AND _kind <> '{WITHOUT_ITEM}'",
        ),
        *(RowRule("imprecise_id", name, is_imprecise(f"_{name}")) for name in ID_COLUMNS),
    ]
    for money in MONEY_COLUMNS:
        unparsable = f"_{money} IS NOT NULL AND _{money}_cents IS NULL"
        rules += [
            RowRule(f"unparsable_{money}", money, unparsable),
            RowRule(f"negative_{money}", money, f"_{money}_cents < 0"),
        ]
    for text in TEXT_COLUMNS:
        # Counting bytes first: counting characters is slow and seldom needed.
        too_long = f"strlen(_{text}) > {MAX_TEXT} AND length(_{text}) > {MAX_TEXT}"
        has_control = f"regexp_matches(_{text}, {literal(NOT_IN_TEXT)})"
        rules += [
            RowRule("text_too_long", text, too_long),
            RowRule("control_character", text, has_control),
        ]
    if "event_id" not in source.fields:  # it is derived
        rules = [rule for rule in rules if rule.reason != "missing_event_id"]
    return rules
