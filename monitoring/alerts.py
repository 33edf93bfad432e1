"""From signals to alerts: what to tell, since when, and what not to tell twice.

A signal is one number that a run saw. Its rule (`configs/monitoring.yaml`) says from where on it
is an alert, for how many runs in a row, and below what it is over: the two bounds and the count
keep an alert from flapping. People acknowledge and silence in `alerts.yaml` of the data folder:

    acknowledged:
      - {alert: drift, by: ann, why: the spring campaign}
    silenced:
      - {alert: freshness, until: 2024-07-01, why: the log moves house}
"""

import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from monitoring import reports
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.yaml_file import load_yaml

Level = Literal["fail", "warn"]


class AlertRule(BaseModel):
    """From where on a signal is an alert."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    above: float
    """The signal's value from which on (and beyond) the alert is raised."""
    over: float | None = None
    """Below this value it is over; unset, below `above`."""
    runs: int = Field(default=1, ge=1)
    """Runs in a row that must see it before it is raised."""
    quiet_runs: int = Field(default=2, ge=1)
    """Runs in a row below `over` before it ends."""
    level: Level = "warn"
    """`fail` makes `nextbuy monitor` exit with 1."""

    @model_validator(mode="after")
    def _ordered(self) -> "AlertRule":
        if self.over is not None and self.over > self.above:
            raise ValueError("over must not exceed above")
        return self


class Signal(BaseModel):
    """One number that a run saw."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float
    message: str
    """What changed, in words."""
    remedy: str
    features: tuple[str, ...] = ()


class Alert(BaseModel):
    """A rule's state after a run; kept from run to run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    level: Level
    is_raised: bool = False
    streak: int = 0
    """Runs in a row beyond the bound or, while raised, below the lower one."""
    since: datetime | None = None
    """The first of the runs that saw it."""
    told: bool = False
    """Whether its raising reached everyone it should."""
    value: float = 0
    message: str = ""
    remedy: str = ""
    features: tuple[str, ...] = ()
    quieted: Literal["acknowledged", "silenced"] | None = None

    @property
    def state(self) -> str:
        """In one word."""
        if self.is_raised:
            return self.quieted or "raised"
        return "waiting" if self.since else "quiet"

    def __str__(self) -> str:
        since = f" since {self.since:%Y-%m-%d %H:%M} UTC" if self.since else ""
        features = f" Features: {', '.join(self.features)}." if self.features else ""
        return f"{self.name}{since}: {self.message}{features} {self.remedy}"


class _Acknowledged(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    alert: str
    by: str = ""
    why: str = ""


class _Silenced(_Acknowledged):
    until: date


class Quieted(BaseModel):
    """What people said of alerts; `alert` may hold `*`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    acknowledged: tuple[_Acknowledged, ...] = ()
    """Holds as long as the alert is raised: take it out when that is over."""
    silenced: tuple[_Silenced, ...] = ()

    def of(self, name: str, at: datetime) -> Literal["acknowledged", "silenced"] | None:
        """Whether an alert is to be kept quiet at a moment (`until` is the first day it is not)."""
        if any(fnmatch.fnmatch(name, s.alert) and at.date() < s.until for s in self.silenced):
            return "silenced"
        if any(fnmatch.fnmatch(name, a.alert) for a in self.acknowledged):
            return "acknowledged"
        return None


def evaluate(
    rules: Mapping[str, AlertRule],
    signals: Iterable[Signal],
    before: Mapping[str, Alert],
    quieted: Quieted,
    at: datetime,
) -> dict[str, Alert]:
    """The next state of every rule.

    A rule without a signal in this run stays as it was: not to be seen is not to be over.

    Raises:
        NextbuyError: a signal has no rule.
    """
    seen = {signal.name: signal for signal in signals}
    if unknown := sorted(set(seen) - set(rules)):
        raise NextbuyError(
            f"configs/monitoring.yaml has no alert rule for {', '.join(unknown)}. "
            "Write one under alerts."
        )
    return {
        name: _next(name, rule, seen.get(name), before.get(name), quieted.of(name, at), at)
        for name, rule in rules.items()
    }


def _next(
    name: str,
    rule: AlertRule,
    signal: Signal | None,
    before: Alert | None,
    quieted: Literal["acknowledged", "silenced"] | None,
    at: datetime,
) -> Alert:
    alert = (before or Alert(name=name, level=rule.level)).model_copy(
        update={"level": rule.level, "quieted": quieted}
    )
    if signal is None:
        return alert
    said = {k: getattr(signal, k) for k in ("value", "message", "remedy", "features")}
    is_beyond = signal.value >= rule.above
    if alert.is_raised:
        is_below = signal.value < (rule.above if rule.over is None else rule.over)
        streak = alert.streak + 1 if is_below else 0
        if streak >= rule.quiet_runs:
            return Alert(name=name, level=rule.level, quieted=quieted, **said)
        return alert.model_copy(update={"streak": streak, **said})
    if not is_beyond:
        return Alert(name=name, level=rule.level, quieted=quieted, **said)
    streak = alert.streak + 1
    return alert.model_copy(
        update={
            "streak": 0 if streak >= rule.runs else streak,
            "since": alert.since or at,
            "is_raised": streak >= rule.runs,
            "told": False,
            **said,
        }
    )


def read_state(settings: Settings) -> dict[str, Alert]:
    """The alerts after the last run; empty before the first.

    Raises:
        NextbuyError: the file was spoiled.
    """
    file = _state_file(settings)
    try:
        return {a["name"]: Alert.model_validate(a) for a in json.loads(file.read_text())}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise NextbuyError(
            f"{file} is spoiled ({error}). Delete it: alerts then start anew."
        ) from error


def write_state(
    settings: Settings,
    alerts: Sequence[Alert],
    rules: Mapping[str, AlertRule],
    at: datetime,
    ran: datetime,
) -> None:
    """Keep the alerts for the next run, and add them to the series.

    `at` is the moment that was looked at, `ran` the clock's.
    """
    file = _state_file(settings)
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".tmp")
    aside.write_text(json.dumps([a.model_dump(mode="json") for a in alerts], indent=1))
    aside.rename(file)
    rows = [
        {
            "ran_at": ran,
            "at": at,
            "alert": alert.name,
            "state": alert.state,
            "bound": rules[alert.name].above,
            "features": ", ".join(alert.features),
            **alert.model_dump(include={"level", "value", "since", "message", "remedy"}),
        }
        for alert in alerts
    ]
    reports.append(settings, reports.ALERTS, rows, ran)


def read_quieted(settings: Settings) -> Quieted:
    """What `alerts.yaml` of the data folder says; nothing where there is none.

    Raises:
        NextbuyError: the file is no YAML or says something unknown.
    """
    file = settings.data / "alerts.yaml"
    return load_yaml(file, Quieted) if file.exists() else Quieted()


def _state_file(settings: Settings) -> Path:
    return settings.reports / "alerts.json"
