"""What a shop's log looks like: the mapping from its columns and names to canonical events."""

from collections.abc import Sequence
from datetime import timedelta
from fnmatch import fnmatch
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import available_timezones

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from nextbuy.errors import NextbuyError
from nextbuy.events import PLACEHOLDERS, REQUIRED, TIME_LIMITS, EventType
from nextbuy.versioned_table import fingerprint
from nextbuy.yaml_file import load_yaml, mistakes

Name = Annotated[str, Field(min_length=1)]
ATTRIBUTES = ("category", "brand", "price", "discount")
"""What a table of items may add to an event."""
OPTIONAL = (*ATTRIBUTES, "source_session_id")
"""Canonical columns a log may lack; features that need them are then left out."""


class _Model(BaseModel):
    # Event names such as 1 and ids such as 42 are numbers to YAML and text to us.
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class Expression(_Model):
    """A DuckDB expression over the log's columns, for what a plain column cannot say.

    In CSV and JSON the columns are text, and empty cells are NULL; a dotted path is one name, in
    double quotes. `_line` is the whole line, `_element` the element of an exploded list as JSON.
    """

    sql: Name


ColumnSpec = Name | Expression
"""A column of the log (a dotted path where the log nests), or an expression over its columns."""


class TimeFormat(_Model):
    """How the log writes a moment."""

    format: str = "iso"
    """`iso`, `unix_s`, `unix_ms`, `unix_us`, or a strptime pattern such as `%d.%m.%Y %H:%M`."""
    zone: str = "UTC"
    """Zone of the shop's clock, for times that do not carry their own offset."""

    @model_validator(mode="after")
    def _known(self) -> Self:
        if "%" not in self.format and self.format not in ("iso", "unix_s", "unix_ms", "unix_us"):
            raise ValueError(
                f"{self.format!r} is no time format; use iso, unix_s, unix_ms, unix_us or a "
                "strptime pattern with %"
            )
        if self.zone not in available_timezones():
            raise ValueError(f"{self.zone!r} is no time zone; use a name such as Asia/Shanghai")
        return self


class FileFormat(_Model):
    """How a file is cut into rows and columns. Gzip is detected by content."""

    format: Literal["csv", "jsonl", "parquet"]
    """CSV by RFC 4180: a quoted cell may hold delimiters, doubled quotes and line breaks."""
    columns: tuple[Name, ...] = ()
    """The columns of a CSV file without a header, in order. Empty: the first line names them."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    nulls: tuple[str, ...] = ("",)
    """Texts that mean "no value"."""

    @model_validator(mode="after")
    def _fits_format(self) -> Self:
        if self.columns and self.format != "csv":
            raise ValueError(f"columns: a {self.format} file names its columns itself; drop it")
        return self


class ItemTable(FileFormat):
    """A second file with attributes of items, passed to `ingest` with the log."""

    key: ColumnSpec
    """Column with the item's id."""
    fields: dict[Literal["category", "brand", "price", "discount"], ColumnSpec]
    """Canonical column -> column of this table; the log's own value comes first."""
    stamp: ColumnSpec | None = None
    """Column with the moment a row takes effect; an event gets the last row up to its own time."""
    time: TimeFormat = TimeFormat()
    """How `stamp` is written."""
    where: str | None = None
    """DuckDB condition that picks rows, e.g. `property = 'categoryid'`."""

    @model_validator(mode="after")
    def _price_needs_timestamp(self) -> Self:
        undated = {"price", "discount"} & set(self.fields)
        if undated and self.stamp is None:
            raise ValueError(
                f"fields.{min(undated)}: a price without a stamp would leak later prices into "
                "earlier events; name the stamp column, or leave the price out"
            )
        return self


class Limits(_Model):
    """Which events are refused, and how many refused rows are too many."""

    max_bad_share: float = Field(default=0.01, ge=0, le=1)
    """Largest share of refused rows; with more, nothing is published."""
    not_before: AwareDatetime = TIME_LIMITS.not_before
    """Events before this moment are refused."""
    not_after: AwareDatetime | None = None
    """Events after this moment are refused; those up to it belong to the log, however few of them
    follow a pause. Unset: `nextbuy.log_span` decides where the log ends."""
    max_ahead: timedelta = TIME_LIMITS.max_ahead
    """Events later than now by more than this are refused."""

    @model_validator(mode="after")
    def _within_time_limits(self) -> Self:
        if self.not_before < TIME_LIMITS.earliest:
            raise ValueError(
                f"not_before: no event before {TIME_LIMITS.earliest:%Y-%m-%d} is valid; give that "
                "day or a later one"
            )
        if self.max_ahead > TIME_LIMITS.max_ahead:
            raise ValueError(
                f"max_ahead: no event more than {TIME_LIMITS.max_ahead / timedelta(hours=1):g} "
                "hours ahead is valid; give that or less"
            )
        return self


class Source(FileFormat):
    """How one shop's log becomes canonical events; `configs/sources/` holds the known ones.

    >>> source = Source(name="shop", format="csv", event_types={"pv": "view", "buy": "purchase"},
    ...                 fields={"user_id": "uid", "event_time": "at", "event_type": "what",
    ...                         "item_id": "sku", "price": "price"})
    >>> source.provides()
    ['price', 'purchase', 'view']
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    input: str = ""
    """Which of the shop's logs this is, where it has several of different layout."""
    files: Name | None = None
    """Glob over the names of the files that are this input; needed only among several inputs."""
    explode: Name | None = None
    """Column or path of a list: one event per element, `PATH.x` is the element's x. A row without
    the list is one event. In CSV the cell holds the list as JSON."""
    fields: dict[
        Literal[
            "event_id",
            "user_id",
            "event_time",
            "event_type",
            "item_id",
            "category",
            "brand",
            "price",
            "discount",
            "source_session_id",
        ],
        ColumnSpec,
    ]
    """Canonical column -> column of the log. Without `event_id`, one is derived from the rest."""
    event_types: dict[Name, EventType]
    """Their name -> ours."""
    ignored: tuple[Name, ...] = ()
    """Their names that are skipped: counted, but not refused."""
    time: TimeFormat = TimeFormat()
    placeholders: tuple[str, ...] = PLACEHOLDERS
    """Texts that are no id, without regard to case and blanks around them. A row with one for its
    shopper or item is refused; as session id it counts as no session."""
    float_ids: tuple[str, ...] = ()
    """Canonical columns whose ids came as floats: "266079.0" is read as "266079"."""
    money: Literal["units", "cents"] = "units"
    """Whether prices are written in currency units (35.79) or in cents (3579)."""
    zero_price_is_unknown: bool = False
    """Whether the log writes 0 where it does not know the price."""
    items: ItemTable | None = None
    limits: Limits = Limits()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        missing = [name for name in (*REQUIRED, "item_id") if name not in self.fields]
        if missing:
            raise ValueError(f"fields.{missing[0]}: missing; name the log's column for it")
        both = sorted(set(self.event_types) & set(self.ignored))
        if both:
            raise ValueError(f"ignored: {both[0]!r} is mapped under event_types as well; drop one")
        strange = sorted(set(self.float_ids) - set(self.fields))
        if strange:
            raise ValueError(f"float_ids: {strange[0]!r} is not among fields; name a field")
        return self

    def provides(self, with_items: bool = False) -> list[str]:
        """Optional canonical columns and event types that this log can give, sorted."""
        columns = set(self.fields)
        if with_items and self.items:
            columns |= set(self.items.fields)
        kinds = {kind.value for kind in self.event_types.values()}
        return sorted(kinds.union(columns.intersection(OPTIONAL)))

    def label(self, name: str) -> str:
        """What a canonical column is called in the log, as messages say it."""
        column = self.fields.get(name)  # type: ignore[call-overload]
        return column if isinstance(column, str) else name

    @property
    def mapping(self) -> str:
        """Digest of what decides the content and the id of an event.

        Event names, limits and the table of items are left out: to change them adds or enriches
        events, it does not turn one event into another.
        """
        named = {"fields", "time", "float_ids", "money", "zero_price_is_unknown", "nulls"}
        if self.placeholders != PLACEHOLDERS:
            named.add("placeholders")
        return fingerprint(self.model_dump(mode="json", include=named))


def load_sources(path: Path) -> list[Source]:
    """Read a source mapping: a source for each of its inputs, or one if it names none.

    Where a shop has several logs of different layout, `inputs` holds what each of them adds to the
    settings beside it, or says otherwise.

    Raises:
        NextbuyError: there is no such file, it is not YAML, or a field is wrong; the message
            names the file, the field and the remedy.
    """
    hint = "What each field means: nextbuy/ingest/source.py; examples: configs/sources/."
    common = load_yaml(path, _Inputs, name="source file", hint=hint)
    if not common.inputs:
        return [load_yaml(path, Source, name="source file", hint=hint)]
    sources = []
    for name, own in common.inputs.items():
        content = (common.model_extra or {}) | own | {"input": name}
        try:
            sources.append(Source.model_validate(content))
        except ValidationError as error:
            where = f"The source file {path}"
            raise NextbuyError(mistakes(error, where, ("inputs", name), hint=hint)) from None
    return sources


class _Inputs(BaseModel):
    """The part of a source file that makes several sources of it."""

    model_config = ConfigDict(extra="allow")

    inputs: dict[Name, dict[str, Any]] = {}


def files_by_source(
    files: Sequence[Path], sources: Sequence[Source]
) -> list[tuple[Source, list[Path]]]:
    """Which files are the log of which source; sources without a file are left out.

    Raises:
        NextbuyError: a file fits no input, or several.
    """
    if len(sources) == 1:
        return [(sources[0], list(files))]
    groups: list[tuple[Source, list[Path]]] = [(source, []) for source in sources]
    for file in files:
        fits = [group for source, group in groups if fnmatch(file.name, source.files or "*")]
        if len(fits) != 1:
            globs = ", ".join(f"{source.input} {source.files or '*'!r}" for source in sources)
            raise NextbuyError(
                f"{file} is {'none' if not fits else 'several'} of the inputs of "
                f"{sources[0].name!r} by its name: {globs}. Rename it, or correct "
                "inputs.*.files in the source file."
            )
        fits[0].append(file)
    return [(source, group) for source, group in groups if group]
