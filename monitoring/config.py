"""What monitoring is told: bounds, severities, thresholds. YAML holds only what differs."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from monitoring.alerts import AlertRule
from monitoring.bounds import CheckOverride, EventBounds
from monitoring.drift import DriftConfig
from monitoring.event_profile import ProfileConfig
from monitoring.performance import PerformanceConfig
from nextbuy.settings import PROJECT
from nextbuy.yaml_file import load_yaml

FILE = PROJECT / "configs" / "monitoring.yaml"


class MonitoringConfig(BaseModel):
    """The sections of `configs/monitoring.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    checks: dict[str, dict[str, CheckOverride]] = {}
    """Table -> rule -> severity and tolerance, where they differ from the suite's."""
    events: EventBounds = EventBounds()
    profile: ProfileConfig = ProfileConfig()
    drift: DriftConfig = DriftConfig()
    performance: PerformanceConfig = PerformanceConfig()
    alerts: dict[str, AlertRule] = {}
    """Signal -> from where on it is an alert; a signal without a rule is refused."""


def load_config(file: Path = FILE) -> MonitoringConfig:
    """Read the file; where there is none, everything is as the code says.

    Raises:
        NextbuyError: the file is no YAML, or a setting is unknown or out of bounds.
    """
    return load_yaml(file, MonitoringConfig) if file.exists() else MonitoringConfig()
