"""Settings of monitoring: limits, severities, thresholds. The YAML file holds what differs."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from monitoring.alerts import AlertRule
from monitoring.drift import DriftConfig
from monitoring.event_profile import ProfileConfig
from monitoring.performance import PerformanceConfig
from nextbuy.events import EventType
from nextbuy.settings import PROJECT
from nextbuy.yaml_file import load_yaml

FILE = PROJECT / "configs" / "monitoring.yaml"

Severity = Literal["block", "warn"]


class CheckOverride(BaseModel):
    """Severity and tolerance of one check, where they differ from the suite's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    severity: Severity | None = None
    tolerance: Annotated[float, Field(ge=0, le=1)] | None = None


class EventBounds(BaseModel):
    """When a batch of events looks wrong although each event is valid (nextbuy/events.py)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    shares: dict[EventType, tuple[float, float]] = {
        EventType.VIEW: (0.2, 1.0),
        EventType.ADD_TO_CART: (0.0, 0.5),
        EventType.REMOVE_FROM_CART: (0.0, 0.4),
        EventType.PURCHASE: (0.0, 0.3),
        EventType.LOGIN: (0.0, 0.2),
    }
    """Event type -> smallest and largest share of the events, over any shop we have seen."""
    volume_factor: float = Field(default=5, gt=1)
    """A full day has at most this many times, and at least one over this of, the median
    of the days two weeks before and after it."""
    min_rows: int = Field(default=1000, ge=1)
    """With fewer events than this (of a day, for daily checks) shares are not checked."""
    repeated_share: float = Field(default=0.15, gt=0, le=1)
    """Share of a day's events that may repeat another one under a different id. It is estimated
    with an error of some 2 %."""
    one_user_share: float = Field(default=0.4, gt=0, le=1)
    """Share of a day's events that one user may have; the shop's own crawlers are often there."""


class MonitoringConfig(BaseModel):
    """The sections of `configs/monitoring.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checks: dict[str, dict[str, CheckOverride]] = {}
    """Table -> check -> its override."""
    events: EventBounds = EventBounds()
    profile: ProfileConfig = ProfileConfig()
    drift: DriftConfig = DriftConfig()
    performance: PerformanceConfig = PerformanceConfig()
    alerts: dict[str, AlertRule] = {}
    """Signal -> alert rule; a signal without one is refused."""


def load_config(file: Path = FILE) -> MonitoringConfig:
    """Read the file; without it, every setting has its default.

    Raises:
        NextbuyError: the file is not YAML, or a setting is unknown or out of bounds.
    """
    return load_yaml(file, MonitoringConfig) if file.exists() else MonitoringConfig()
