"""A draft of a mapping from the look of a log: types, patterns, repetition, known words.

Names help where they say something, but the structure alone has to do as well: in a log a shopper
comes again within a few rows while the items change, a session belongs to one shopper, an item has
one category, and the time grows. What rests on little is marked with a question mark.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from nextbuy.events import PLACEHOLDERS, EventType
from nextbuy.ingest.iso_time import LOCAL
from nextbuy.ingest.sample import LogSample

WORDS: Mapping[str, str] = {
    "user_id": r"user|visitor|customer|client|shopper|buyer|member|household|anonymous|distinct_?id"
    r"|person|cookie|kunde|besucher|utilisateur|cliente|usuario|utente|email|^uid$|session",
    "event_time": r"time|date|^ts$|stamp|when|created|zeit|datum|heure|fecha|hora|^at$|^data$",
    "event_type": r"event|action|behaviou?r|^type$|activity|^what$|^ev$|ereignis|aktion|accion",
    "item_id": r"item|product|sku|article|artikel|goods|stock_?code|offer|produit|producto|^aid$",
    "category": r"categor|^cat|group|department|kategorie|warengruppe|rubri",
    "brand": r"brand|marke|marque|marca|vendor|manufacturer|seller",
    "price": r"price|preis|prix|precio|prezzo|amount|cost|euros?$|usd",
    "source_session_id": r"session|basket|visit_?id|invoice|order",
    "event_id": r"^(event_?|message_?|hit_?|row_?)?(uu)?id$|messageid|insert_id",
}
"""Canonical column -> what its column is often called, as a pattern."""
EVENT_WORDS: Mapping[EventType, str] = {
    EventType.REMOVE_FROM_CART: r"remove|delete|^del_|entfern|retir|quitar|elimina",
    EventType.ADD_TO_CART: r"cart|basket|bag|(^|_)add|warenkorb|panier|carrito|carrello|cesta",
    EventType.PURCHASE: r"purchase|buy|bought|buys|order|transaction|sale|kauf|bestell|achat|compra"
    r"|checkout_completed|paid",
    EventType.LOGIN: r"log_?in|sign_?in|anmeld|connexion|identify",
    EventType.SCROLL: r"scroll",
    EventType.VIEW: r"view|^pv$|click|^clk$|seen|detail|visit|look|impression|angesehen|ansicht|vue"
    r"|visto|vista|browse",
}
"""Canonical type -> what it is called in logs; the first that fits."""
NOT_EVENTS = (
    r"checkout_(?!completed)|wish|fav|list|search|promo|payment|shipping|refund|return|coupon"
)
TIMES = {"unix_s": 1e9, "unix_ms": 1e12, "unix_us": 1e15}
PATTERNS = (
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%d/%m/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%d/%m/%Y",
    "%m/%d/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M",
    "%m/%d/%Y",
    "%Y%m%d",
    "%Y%m%d%H%M%S",
)
ZONE = r"( ?(Z|UTC|GMT|[+-]\d\d:?(\d\d)?|[A-Z]{2,4}|[A-Za-z]+/[A-Za-z_/]+))?"
NEAR = (30, 300, 1000)  # rows within which a shopper comes again, however many are in the shop
LARGEST_SHARE = 0.2  # no shopper makes more of a log than this, but a country may
ENOUGH = 200  # rows from which repetition says something


SHOPPERS = {r"[^@ ]+@[^@ ]+": 3.0, r"[A-Za-z]+[.]\d+": 2.0, r"[a-z]{2,12}\d?": 1.5, r"[\w.-]+": 1.0}
ITEMS = {r"[A-Za-z]{1,6}[-_]?\d{1,9}": 2.0, r"\d{2,}([.]0)?": 1.5, r"[\w.-]+": 0.5}
"""What ids look like -> how well it fits, where nothing else is known."""


@dataclass(frozen=True)
class Guess:
    """What a canonical column is in the log."""

    column: str
    evidence: str
    is_sure: bool = True
    is_expression: bool = False


@dataclass
class Draft:
    """What a log seems to be."""

    sample: LogSample
    fields: dict[str, Guess] = field(default_factory=dict)
    time_format: str = "iso"
    event_types: dict[str, Guess] = field(default_factory=dict)
    """Their name -> ours."""
    ignored: dict[str, str] = field(default_factory=dict)
    """Their name -> why."""


@dataclass(frozen=True)
class _Column:
    name: str
    values: pd.Series
    filled: float
    distinct: int
    largest_share: float
    """The share of the rows that the most frequent value has."""
    is_number: bool
    is_whole: bool
    returns: float
    """How much more often a value comes again within a few rows than in rows by chance, 0 to 1."""

    def named(self, what: str) -> bool:
        """Whether its name says that it is this canonical column."""
        last = self.name.rsplit(".", 1)[-1]
        plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", last).lower()
        return re.search(WORDS[what], plain) is not None


def draft(sample: LogSample) -> Draft:
    """Guess what each canonical column is; what is not found is left out."""
    result = Draft(sample)
    columns = {name: _look(str(name), sample.rows[name]) for name in sample.rows.columns}
    free = {name: column for name, column in columns.items() if column.filled > 0}
    _find_time(result, free)
    _find_type(result, free)
    _find_ids(result, free)
    _find_attributes(result, free)
    return result


def _look(name: str, values: pd.Series) -> _Column:
    known = values[values.notna() & ~values.astype(str).str.strip().str.lower().isin(PLACEHOLDERS)]
    known = known.astype(str)
    numbers = pd.to_numeric(known, errors="coerce")
    is_number = len(known) > 0 and bool(numbers.notna().all())
    return _Column(
        name,
        values,
        len(known) / max(len(values), 1),
        known.nunique(),
        float(known.value_counts(normalize=True).max()) if len(known) else 0.0,
        is_number,
        is_number and bool((numbers % 1 == 0).all()),
        _returns(known),
    )


def _returns(values: pd.Series) -> float:
    codes = pd.factorize(values)[0]
    shuffled = np.random.default_rng(0).permutation(codes)
    chances = [_again(shuffled, rows) for rows in NEAR]
    nears = [_again(codes, rows) for rows in NEAR]
    return max(
        max(0.0, (near - chance) / max(1 - chance, 0.01))
        for near, chance in zip(nears, chances, strict=True)
    )


def _again(codes: np.ndarray, rows: int) -> float:
    """The share of rows whose value was there in the few rows before."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    again = (ordered[1:] == ordered[:-1]) & (np.diff(order) <= rows)
    return float(again.sum()) / max(len(codes), 1)


def _find_time(result: Draft, free: dict[str, _Column]) -> None:
    candidates = []
    for name, column in free.items():
        if column.filled < 0.9:
            continue
        written = _time_format(column.values.dropna().astype(str))
        if written is None:
            continue
        how, moments, has_hours = written
        grows = float((np.diff(moments) >= 0).mean()) if len(moments) > 1 else 1.0
        score = (column.named("event_time"), has_hours, grows)
        candidates.append((score, name, how, grows))
    if not candidates:
        return
    (is_named, has_hours, _), name, how, grows = max(candidates, key=lambda each: each[0])
    evidence = f"{how}, grows in {grows:.0%} of the rows"
    if len(candidates) > 1:
        others = ", ".join(str(each[1]) for each in candidates if each[1] != name)
        evidence += f"; {others} could be a time too"
    sure = len(candidates) == 1 or bool(is_named)
    if not has_hours:
        evidence += "; days only"
    result.fields["event_time"] = Guess(name, evidence, sure)
    result.time_format = how
    del free[name]


def _time_format(values: pd.Series) -> tuple[str, np.ndarray, bool] | None:
    """How all of these texts are written as times, their moments, and whether they have hours."""
    if values.str.fullmatch(LOCAL + ZONE).mean() > 0.98:
        plain = values.str.extract(f"({LOCAL})")[0].str.replace("/", "-").str.replace(" ", "T")
        moments = pd.to_datetime(plain, errors="coerce", format="ISO8601")
        return "iso", moments.astype("int64").to_numpy(), bool(values.str.contains(":").any())
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.notna().all():
        for how, least in TIMES.items():
            years = (numbers.max() - numbers.min()) / least * 31.7
            if least <= numbers.min() and numbers.max() < least * 2.2 and years < 15:
                return how, numbers.to_numpy(), True
    few = values.drop_duplicates().head(500)
    for pattern in PATTERNS:
        if pd.to_datetime(few, format=pattern, errors="coerce").notna().all():
            moments = pd.to_datetime(values, format=pattern, errors="coerce")
            return pattern, moments.astype("int64").to_numpy(), "%H" in pattern
    return None


def _find_type(result: Draft, free: dict[str, _Column]) -> None:
    candidates = []
    for name, column in free.items():
        if column.values.isna().mean() > 0.01 or not 1 <= column.values.nunique() <= 60:
            continue
        if column.is_number and not column.is_whole:
            continue
        counts = column.values.astype(str).value_counts()
        known = sum(counts[text] for text in counts.index if _event_type(text)) / counts.sum()
        is_code = column.is_whole and len(counts) <= 8 and counts.index.str.len().max() <= 2
        if known < 0.3 and not (is_code and len(counts) > 1 and len(column.values) >= ENOUGH):
            continue
        candidates.append((known, column.named("event_type"), -column.distinct, name))
    if not candidates:
        result.fields["event_type"] = Guess(
            "'purchase'", "no column says what happened: are all rows purchases?", False, True
        )
        result.event_types["purchase"] = Guess(EventType.PURCHASE, "by the guess above", False)
        return
    known, _, _, name = max(candidates)
    counts = free[name].values.astype(str).value_counts()
    result.fields["event_type"] = Guess(
        name, f"{len(counts)} values, {known:.0%} of the rows are known words", known > 0.5
    )
    for text, n in counts.items():
        share = f"{n / counts.sum():.1%} of the rows"
        kind = _event_type(str(text))
        if kind is None and known < 0.3 and text == counts.index[0]:
            kind = EventType.VIEW  # in every shop the most frequent
        if kind is None:
            result.ignored[str(text)] = share
        else:
            result.event_types[str(text)] = Guess(kind, share, known >= 0.3)
    del free[name]


def _event_type(text: str) -> EventType | None:
    plain = re.sub(r"\W+", "_", text.strip().lower())
    if re.search(NOT_EVENTS, plain):
        return None
    return next((kind for kind, words in EVENT_WORDS.items() if re.search(words, plain)), None)


def _find_ids(result: Draft, free: dict[str, _Column]) -> None:
    """Shopper, session, item and the event's own id, among the columns that repeat."""
    n = len(result.sample.rows)
    ids = {
        name: column
        for name, column in free.items()
        if column.filled > 0.5
        and (column.distinct > 1 or n < ENOUGH)
        and (column.is_whole or not column.is_number)
    }
    if n < ENOUGH:
        _find_ids_by_look(result, free, ids)
        return
    unique = [name for name, c in ids.items() if c.distinct == n and c.filled == 1]
    own = [name for name in unique if free[name].named("event_id")]
    repeated = {name: c for name, c in ids.items() if name not in unique}
    shopper = _best(repeated, "user_id", _shopper_score(repeated))
    if shopper is None:
        return
    rows = result.sample.rows
    repeated.pop(shopper)
    sessions = [
        name
        for name, column in repeated.items()
        if column.distinct > free[shopper].distinct
        and column.returns > 0.1
        and _decides(rows, name, shopper)
        and not _decides(rows, shopper, name)
    ]
    session = _best({name: repeated[name] for name in sessions}, "source_session_id", {})
    others = {
        name: column
        for name, column in repeated.items()
        if name not in sessions and (column.named("item_id") or not _decides(rows, shopper, name))
    }
    item = _best(others, "item_id", {name: column.distinct for name, column in others.items()})
    column = free[shopper]
    result.fields["user_id"] = Guess(
        shopper,
        f"{column.distinct:,} values in {n:,} rows; {column.returns:.0%} come again soon",
    )
    if item is not None:
        column = free[item]
        result.fields["item_id"] = Guess(item, f"{column.distinct:,} values")
    if session is not None:
        result.fields["source_session_id"] = Guess(
            session, f"{free[session].distinct:,} values, each of one shopper"
        )
    if own:
        result.fields["event_id"] = Guess(own[0], "another value in every row")
    for guess in result.fields.values():
        free.pop(guess.column, None)


def _find_ids_by_look(result: Draft, free: dict[str, _Column], ids: Mapping[str, _Column]) -> None:
    """Shopper and item of a log too short for repetition to say something: by name, then look."""
    n = len(result.sample.rows)
    counted = [name for name, c in ids.items() if n > 1 and c.distinct == n and c.filled == 1]
    numbered = [name for name in counted if free[name].named("event_id")] or [
        name for name in counted[:1] if next(iter(ids)) == name and len(ids) > 3
    ]
    texts = {name: c.values.dropna().astype(str) for name, c in free.items() if name in ids}
    places = {name: place for place, name in enumerate(texts)}
    pairs = [
        (
            _like(texts[one], SHOPPERS)
            + _like(texts[other], ITEMS)
            + 4 * free[one].named("user_id")
            + 4 * free[other].named("item_id")
            - 0.2 * (places[one] > places[other])
            - 0.01 * (places[one] + places[other]),
            one,
            other,
        )
        for one in texts
        for other in texts
        if one != other and not {one, other} & {*numbered}
    ]
    if pairs:
        _, shopper, item = max(pairs)
        looks = "too few rows to be sure"
        result.fields["user_id"] = Guess(shopper, looks, free[shopper].named("user_id"))
        result.fields["item_id"] = Guess(item, looks, free[item].named("item_id"))
        free.pop(shopper)
        free.pop(item)
    if numbered:
        is_sure = free[numbered[0]].named("event_id")
        result.fields["event_id"] = Guess(numbered[0], "another value in every row", is_sure)
        free.pop(numbered[0])


def _like(texts: pd.Series, patterns: Mapping[str, float]) -> float:
    """The score of the first pattern that all texts have."""
    return next(
        (score for pattern, score in patterns.items() if texts.str.fullmatch(pattern).all()), 0.0
    )


def _shopper_score(ids: Mapping[str, _Column]) -> dict[str, float]:
    """Shoppers return the most; of those who return alike, the coarser one is no session."""
    most = max((column.returns for column in ids.values()), default=0.0)
    return {
        name: -column.distinct
        if column.returns > 0.95 * most and column.largest_share < LARGEST_SHARE
        else -1e12
        for name, column in ids.items()
    }


def _best(columns: Mapping[str, _Column], what: str, score: Mapping[str, float]) -> str | None:
    """The column whose name says it, else the one that scores the highest."""
    if not columns:
        return None
    return max(columns, key=lambda name: (columns[name].named(what), score.get(name, 0.0)))


def _decides(rows: pd.DataFrame, one: str, other: str) -> bool:
    """Whether a value of one column comes with one value of the other, in nearly all rows."""
    both = rows[[one, other]].dropna()
    if both.empty:
        return False
    return float((both.groupby(one)[other].nunique() == 1).mean()) > 0.97


def _find_attributes(result: Draft, free: dict[str, _Column]) -> None:
    rows, item = result.sample.rows, result.fields.get("item_id")
    for what in ("category", "brand", "price"):
        for name, column in list(free.items()):
            if not column.named(what) or (what == "price" and not column.is_number):
                continue
            by_item = item is not None and _decides(rows, item.column, name)
            said = "one for each item" if by_item else "by its name"
            result.fields[what] = Guess(name, f"{column.distinct:,} values, {said}", by_item)
            del free[name]
            break
    for name, column in list(free.items()):  # unnamed: what an item decides and shares
        if item is None or len(rows) < ENOUGH or column.filled < 0.3:
            continue
        is_shared = 1 < column.distinct < free_size(result, item) / 2
        if "price" not in result.fields and column.is_number and not column.is_whole:
            result.fields["price"] = Guess(name, "numbers with decimals", False)
        elif "category" not in result.fields and is_shared and _decides(rows, item.column, name):
            result.fields["category"] = Guess(name, "one for each item, shared by many", False)


def free_size(result: Draft, item: Guess) -> int:
    """How many items the sample has."""
    return int(result.sample.rows[item.column].nunique())
