"""The shop's record: the settings that the labels and features of a data folder depend on.

A probability means something only together with them: how far ahead a label looks, when a session
ends, whose midnight a day ends at. The first verb that writes into a data folder puts the record
there, the first that builds labels completes it, and later verbs take their settings from it.
"""

import hashlib
import uuid
from typing import Any, Literal, NamedTuple, Self
from zoneinfo import available_timezones

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from nextbuy.atomic import write_text
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.times import DAY, MINUTE
from nextbuy.versioned_table import manifest

SHOP_FILE = "shop.json"
"""The record's file in the data folder. Where it lies, a shop's data begin: nothing that walks
another shop's folder goes below it."""
FORMAT: Literal[1] = 1
"""Of the file; a later version that writes it differently counts on."""
UTC_ZONE = "UTC"


class SessionConfig(BaseModel):
    """When a session ends, and which sessions count as a bot's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gap_minutes: int = Field(default=30, ge=1)
    """Inactivity after which the next event opens a new session."""
    bot_session_events: int = Field(default=1000, ge=2)
    """A session with events at this many moments is a bot's."""
    bot_burst_events: int = Field(default=30, ge=2)
    """So is one with events at this many moments ..."""
    bot_events_per_second: float = Field(default=1.0, gt=0)
    """... while it runs at this pace, in moments a second, or faster."""
    max_shoppers: int = Field(default=10, ge=1)
    """A shop's own session id that more shoppers than this have used is no session: a log-in links
    no visitors over it from then on (`nextbuy.features.history.crowded_sessions`)."""

    @property
    def gap_us(self) -> int:
        """The gap in microseconds."""
        return self.gap_minutes * MINUTE


class LabelConfig(BaseModel):
    """How far ahead a label looks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    horizon_days: int = Field(default=30, ge=1)
    """The next session counts when it starts within this many days."""

    @property
    def horizon_us(self) -> int:
        """The horizon in microseconds."""
        return self.horizon_days * DAY


class ShopSettings(BaseModel):
    """Every setting that labels or features depend on.

    >>> ShopSettings(labels=LabelConfig(horizon_days=7)).differences(ShopSettings())
    {'labels.horizon_days': (7, 30)}
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sessions: SessionConfig = SessionConfig()
    labels: LabelConfig = LabelConfig()
    time_zone: str = UTC_ZONE
    """IANA name of the zone of the shop's clock: hours, weekdays and midnights are by it. What is
    stored stays in UTC."""

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        if name != UTC_ZONE and name not in available_timezones():
            raise ValueError(f"{name!r} is no time zone; use a name such as Europe/Berlin")
        return name

    def differences(self, other: Self) -> dict[str, tuple[Any, Any]]:
        """Settings that are not the same -> their value here, and in `other`."""
        ours, theirs = _flat(self.model_dump()), _flat(other.model_dump())
        return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name]}

    def compared_with(self, other: Self) -> str:
        """The settings that differ, with both values; empty where none does.

        >>> ShopSettings(time_zone="Asia/Tokyo").compared_with(ShopSettings())
        'time_zone Asia/Tokyo, not UTC'
        """
        differing = self.differences(other).items()
        return ", ".join(f"{name} {ours}, not {theirs}" for name, (ours, theirs) in differing)

    @property
    def question(self) -> str:
        """What a probability of this shop answers."""
        return (
            "Does the shopper's next session begin within "
            f"{_days(self.labels.horizon_days)} of the last one's end and hold a purchase of the "
            f"item? A session ends after {self.sessions.gap_minutes} minutes without an event; "
            f"hours, weekdays and midnights are by the clock of {self.time_zone}."
        )

    def __str__(self) -> str:
        return (
            f"horizon {_days(self.labels.horizon_days)}, sessions end after "
            f"{self.sessions.gap_minutes} minutes, clock {self.time_zone}"
        )


DEFAULTS = ShopSettings()
"""What a shop has without a config file."""


class ShopRecord(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = FORMAT
    id: str = ""
    """Random, given when the record is written for the first time; it moves with the folder."""
    settings: ShopSettings | None = None
    """None until labels are built for the first time."""
    train: dict[str, Any] = {}
    """The section `train` of the config file that was last used to build or train."""


def shop_record(settings: Settings) -> ShopRecord | None:
    """What is recorded in the data folder; None where nothing is.

    Raises:
        NextbuyError: the file cannot be read, or a later version wrote it.
    """
    file = settings.data / SHOP_FILE
    try:
        text = file.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise NextbuyError(f"Cannot read the shop's record {file}: {error}.") from error
    try:
        return ShopRecord.model_validate_json(text)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        what = f"{'.'.join(map(str, detail['loc']))} {detail['msg']}".strip()
        raise NextbuyError(
            f"The shop's record {file} cannot be used: {what}. Bring it back from a backup, use "
            "the version of Nextbuy that wrote it, or remove it: the settings are then taken from "
            "the published tables."
        ) from None


def published_settings(settings: Settings) -> ShopSettings | None:
    """The settings that the published tables were built with; None where none are.

    What was not built yet has the recorded setting, else the default.
    """
    sessions, labels = manifest(settings.sessions), manifest(settings.labels)
    if sessions is None and labels is None:
        return None
    record = shop_record(settings)
    known = (record and record.settings) or ShopSettings()
    user = manifest(settings.features / "user")
    cut = sessions.info.get("sessions") if sessions else None
    horizon = labels.info.get("labels") if labels else None
    return ShopSettings(
        sessions=SessionConfig(**cut) if cut else known.sessions,
        labels=LabelConfig(**horizon) if horizon else known.labels,
        time_zone=user.info.get("time_zone", UTC_ZONE) if user else known.time_zone,
    )


def shop_settings(settings: Settings) -> ShopSettings:
    """The recorded settings; of a folder without a record, those of its tables, else the defaults.

    Raises:
        NextbuyError: the record cannot be read.
    """
    record = shop_record(settings)
    if record and record.settings:
        return record.settings
    return published_settings(settings) or ShopSettings()


def require_current_tables(settings: Settings) -> ShopSettings:
    """The shop's settings, which the published tables were built with.

    Raises:
        NextbuyError: they were built with others, so what is recorded is not what they hold.
    """
    recorded, published = shop_settings(settings), published_settings(settings)
    if published and (differing := published.differences(recorded)):
        listed = ", ".join(
            f"{name} {built} (recorded: {kept})" for name, (built, kept) in differing.items()
        )
        raise NextbuyError(
            f"The tables in {settings.data} were built with other settings than the shop's: "
            f"{listed}. Build them again: nextbuy sessionize, then nextbuy features."
        )
    return recorded


def mark_shop(settings: Settings) -> None:
    """Put a record without settings into a data folder that has none: a shop's data begin there."""
    if not (settings.data / SHOP_FILE).exists():
        write_record(settings, ShopRecord())


class ShopIdentity(NamedTuple):
    """Which data folder it is, without its path: that is nothing for a service's clients."""

    name: str
    """Of the folder."""
    id: str
    """No other folder has it, not even a copy of this one."""


def shop_identity(settings: Settings) -> ShopIdentity | None:
    """Which data folder this is; None where no service ever ran.

    Raises:
        NextbuyError: the record cannot be read.
    """
    record = shop_record(settings)
    if record is None or not record.id:
        return None
    # A copy has the same record; the inode, which containers see alike, tells it from the original.
    text = f"{record.id} {settings.data.stat().st_ino}"
    return ShopIdentity(settings.data.name, hashlib.sha256(text.encode()).hexdigest()[:16])


def identified_shop(settings: Settings) -> ShopIdentity:
    """The same, after the record was given an id if it had none.

    Raises:
        NextbuyError: the record cannot be read.
    """
    identity = shop_identity(settings)
    if identity is None:
        write_record(settings, shop_record(settings) or ShopRecord())
        identity = shop_identity(settings)
        assert identity is not None  # written just now
    return identity


def write_record(settings: Settings, record: ShopRecord) -> None:
    """Replace the record as a whole, but for the id that it has, or now gets."""
    before = shop_record(settings)
    identity = (before and before.id) or uuid.uuid4().hex
    record = record.model_copy(update={"id": identity})
    write_text(settings.data / SHOP_FILE, record.model_dump_json(indent=1), durable=True)


def _days(count: int) -> str:
    return f"{count} day{'s' * (count != 1)}"


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        inside = isinstance(value, dict)
        flat |= _flat(value, f"{above}{name}.") if inside else {f"{above}{name}": value}
    return flat
