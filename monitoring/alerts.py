"""From signals to alerts: what is raised, since when, and who has been notified.

A signal is one number of a run. Its rule (`configs/monitoring.yaml`) gives the value at which it
raises an alert, the number of runs in a row that it takes, and the value below which the alert
ends: two bounds and a count keep it from flapping. Acknowledge or silence alerts in `alerts.yaml`
of the data folder; they stay visible but stop notifying:

    acknowledged:
      - {alert: drift, by: ann, why: the spring campaign}
    silenced:
      - {alert: freshness, until: 2024-07-01, why: the log is being moved}
"""

import fnmatch
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from monitoring import reports
from nextbuy.atomic import write_text
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.times import age_in_words
from nextbuy.yaml_file import load_yaml

Level = Literal["fail", "warn"]


class AlertRule(BaseModel):
    """When a signal raises an alert, and when the alert ends."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    above: float
    """The alert is raised at this value or a larger one."""
    over: float | None = None
    """The alert ends below this value; unset, below `above`."""
    runs: int = Field(default=1, ge=1)
    """Runs in a row at or above `above` before it is raised."""
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
    """One number of a run, judged by the alert rule of its name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    value: float
    message: str
    """What changed, in words."""
    remedy: str
    features: tuple[str, ...] = ()
    unit: Literal["", "hours", "share", "seconds", "ms"] = ""
    """Of the value and of its rule's bounds; empty: a plain number."""

    def in_words(self, value: float) -> str:
        """A value of this signal as people write it.

        >>> Signal(name="drift", value=0, message="", remedy="", unit="share").in_words(0.5)
        '50 %'
        """
        match self.unit:
            case "hours":
                return age_in_words(value)
            case "share":
                return f"{value:.0%}".replace("%", " %")
            case "seconds":
                return f"{value:g} s"
            case "ms":
                return f"{value:g} ms"
            case _:
                return f"{value:g}"


class Alert(BaseModel):
    """The state of a rule after a run; saved from run to run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    level: Level
    is_raised: bool = False
    streak: int = 0
    """Runs in a row above the bound or, while raised, below the lower one."""
    since: datetime | None = None
    """The first run of the streak that raised it."""
    notified: bool = Field(default=False, validation_alias=AliasChoices("notified", "told"))
    """Whether the webhook received it."""
    value: float = 0
    message: str = ""
    remedy: str = ""
    features: tuple[str, ...] = ()
    muted: Literal["acknowledged", "silenced"] | None = Field(
        default=None, validation_alias=AliasChoices("muted", "quieted")
    )
    """Why it does not notify (`quieted` in the state of older versions)."""

    @property
    def is_recovering(self) -> bool:
        """Whether the last run was below the lower bound, but not yet enough runs in a row."""
        return self.is_raised and self.streak > 0

    @property
    def state(self) -> str:
        """`quiet`, `waiting`, `raised`, `recovering`, `acknowledged` or `silenced`."""
        if self.is_raised:
            return self.muted or ("recovering" if self.is_recovering else "raised")
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


class Silences(BaseModel):
    """Alerts that people acknowledged or silenced; `alert` may hold `*`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    acknowledged: tuple[_Acknowledged, ...] = ()
    """Holds as long as it is in the file: remove it when the alert has ended."""
    silenced: tuple[_Silenced, ...] = ()

    def of(self, name: str, at: datetime) -> Literal["acknowledged", "silenced"] | None:
        """Why an alert does not notify at a moment; `until` is the first day that it does again."""
        if any(fnmatch.fnmatch(name, s.alert) and at.date() < s.until for s in self.silenced):
            return "silenced"
        if any(fnmatch.fnmatch(name, a.alert) for a in self.acknowledged):
            return "acknowledged"
        return None


def evaluate(
    rules: Mapping[str, AlertRule],
    signals: Iterable[Signal],
    before: Mapping[str, Alert],
    silences: Silences,
    at: datetime,
) -> dict[str, Alert]:
    """The next state of every rule.

    A rule without a signal in this run keeps its state: a missing number does not end an alert.

    Raises:
        NextbuyError: a signal has no rule.
    """
    by_name = {signal.name: signal for signal in signals}
    if unknown := sorted(set(by_name) - set(rules)):
        raise NextbuyError(
            f"configs/monitoring.yaml has no alert rule for {', '.join(unknown)}. "
            "Add one under alerts."
        )
    return {
        name: _next(name, rule, by_name.get(name), before.get(name), silences.of(name, at), at)
        for name, rule in rules.items()
    }


def _next(
    name: str,
    rule: AlertRule,
    signal: Signal | None,
    before: Alert | None,
    muted: Literal["acknowledged", "silenced"] | None,
    at: datetime,
) -> Alert:
    alert = (before or Alert(name=name, level=rule.level)).model_copy(
        update={"level": rule.level, "muted": muted}
    )
    if signal is None:
        return alert
    current = {k: getattr(signal, k) for k in ("value", "message", "remedy", "features")}
    is_above = signal.value >= rule.above
    if alert.is_raised:
        is_below = signal.value < (rule.above if rule.over is None else rule.over)
        streak = alert.streak + 1 if is_below else 0
        if streak >= rule.quiet_runs:
            return Alert(name=name, level=rule.level, muted=muted, **current)
        if streak:
            current["remedy"] = (
                f"It has recovered: the alert ends after {rule.quiet_runs - streak} more such run"
                f"{'s' if rule.quiet_runs - streak > 1 else ''}."
            )
        return alert.model_copy(update={"streak": streak, **current})
    if not is_above:
        return Alert(name=name, level=rule.level, muted=muted, **current)
    streak = alert.streak + 1
    return alert.model_copy(
        update={
            "streak": 0 if streak >= rule.runs else streak,
            "since": alert.since or at,
            "is_raised": streak >= rule.runs,
            "notified": False,
            **current,
        }
    )


def read_state(settings: Settings) -> dict[str, Alert]:
    """The alerts after the last run; empty before the first.

    Raises:
        NextbuyError: the file is damaged.
    """
    file = _state_file(settings)
    try:
        return {a["name"]: Alert.model_validate(a) for a in json.loads(file.read_text())}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise NextbuyError(
            f"{file} is damaged ({error}). Delete it: the alerts then start from nothing."
        ) from error


def write_state(
    settings: Settings,
    alerts: Sequence[Alert],
    rules: Mapping[str, AlertRule],
    at: datetime,
    ran: datetime,
) -> None:
    """Save the alerts for the next run, and append them to their report.

    Args:
        settings: where both lie.
        alerts: the state of every rule.
        rules: the rules, for their bounds.
        at: the moment that the run looked at.
        ran: the clock's time of the run.
    """
    state = [alert.model_dump(mode="json") for alert in alerts]
    write_text(_state_file(settings), json.dumps(state, indent=1))
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


def read_silences(settings: Settings) -> Silences:
    """The alerts muted by `alerts.yaml` of the data folder; none without the file.

    Raises:
        NextbuyError: the file is not YAML, or has an unknown field.
    """
    file = settings.data / "alerts.yaml"
    return load_yaml(file, Silences) if file.exists() else Silences()


def _state_file(settings: Settings) -> Path:
    return settings.reports / "alerts.json"
