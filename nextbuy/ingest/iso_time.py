"""ISO 8601 times as SQL: what zone a text says, and what is meant by none.

DuckDB's cast to TIMESTAMP drops what follows the time of day, be it ` EST`, ` +0500` or ` PM`, and
its cast to TIMESTAMPTZ reads abbreviations as regions (CET in July is two hours). Here a text is
read as what it says, or not at all.
"""

from nextbuy.sql import literal
from nextbuy.times import HOUR

ABBREVIATIONS = {
    "UT": 0,
    "UTC": 0,
    "GMT": 0,
    "WET": 0,
    "WEST": 1,
    "CET": 1,
    "CEST": 2,
    "EET": 2,
    "EEST": 3,
    "MSK": 3,
    "JST": 9,
    "KST": 9,
    "AEST": 10,
    "AEDT": 11,
    "NZST": 12,
    "NZDT": 13,
    "EST": -5,
    "EDT": -4,
    "CDT": -5,
    "MST": -7,
    "MDT": -6,
    "PST": -8,
    "PDT": -7,
}
"""Hours ahead of UTC. Abbreviations that stand for several zones (CST, IST, BST) are left out, so
that a time with one is refused."""
LOCAL = r"\d{4}[-/]\d\d?[-/]\d\d?([T ] ?\d\d?:\d\d(:\d\d([.,]\d+)?)?)?"
OFFSET = r" ?([+-]\d\d):?(\d\d)?$"


def iso_moments(text: str) -> tuple[str, str]:
    """Two columns: microseconds since 1970 UTC of a time that says its zone; what a clock showed.

    One of them is NULL, both where `text` is no ISO time or its zone is not known.

    Args:
        text: SQL of a text such as `2024-07-01T12:00:00+02:00`, `2024-07-01 12:00:00 EST`.
    """
    hours = " ".join(f"WHEN {literal(name)} THEN {n}" for name, n in ABBREVIATIONS.items())
    name = f"regexp_extract({text}, ' ?([A-Za-z]+)$', 1)"
    clock = f"regexp_replace({text}, ' ?[A-Za-z]+$', '')"
    offset = f"regexp_replace({text}, '{OFFSET}', '\\1:\\2')"
    absolute = f"epoch_us(TRY_CAST({text} AS TIMESTAMPTZ))"
    is_plain = f"strlen({text}) = 19 AND substr({text}, 17, 1) = ':'"  # spares most rows a pattern
    says_none = f"CASE WHEN {is_plain} THEN true ELSE regexp_full_match({text}, '{LOCAL}') END"
    says_zone = f"""CASE
        WHEN {is_plain} THEN NULL
        WHEN ends_with({text}, 'Z') OR ends_with({text}, ' UTC') THEN {absolute}
        WHEN regexp_full_match({text}, '{LOCAL}{OFFSET[:-1]}')
            THEN epoch_us(TRY_CAST(regexp_replace({offset}, ':$', '') AS TIMESTAMPTZ))
        WHEN regexp_full_match({text}, '{LOCAL} ?[A-Za-z]+/[A-Za-z_/+-]+\\d*') THEN {absolute}
        WHEN regexp_full_match({text}, '{LOCAL} ?[A-Za-z]+')
            THEN epoch_us(TRY_CAST({clock} AS TIMESTAMP))
                - CASE upper({name}) {hours} END * {HOUR}
        END"""
    return says_zone, f"CASE WHEN {says_none} THEN epoch_us(TRY_CAST({text} AS TIMESTAMP)) END"
