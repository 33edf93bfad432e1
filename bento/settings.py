"""How the service behaves, read from the environment: a container is configured by nothing else."""

from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

MAX_ITEMS = 500
"""Items one request may ask for."""
MAX_BATCH = 100
"""Requests one batch may hold."""
MAX_EVENTS = 1000
"""Events one request may bring."""
MAX_REASONS = 10
"""Reasons per item."""
EXPLAINED = 10
"""Items of a request that get reasons, the likeliest; requests of a batch that may ask."""

SHORTEST_KEY = 16


class ServiceSettings(BaseSettings):
    """Limits, budgets and secrets of the service (`NEXTBUY_SERVICE_*`).

    >>> ServiceSettings(time_budget_ms=20).time_budget_ms
    20
    """

    model_config = SettingsConfigDict(
        env_prefix="NEXTBUY_SERVICE_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    api_keys: SecretStr = SecretStr("")
    """Keys separated by commas. None: only requests from this machine are answered."""
    rate_limit: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    """Requests a second that each key (without keys: each address) has in each worker; 0: any."""
    workers: Annotated[int, Field(gt=0)] = 1
    """Processes that answer."""
    time_budget_ms: Annotated[int, Field(gt=0)] = 100
    """What one Redis command may take before the answer goes out without it."""
    without_redis: Literal["degrade", "refuse"] = "degrade"
    """Redis away or slow: answer from item defaults, marked `degraded`, or answer 503."""
    item_defaults: Annotated[int, Field(ge=0)] = 50_000
    """Items whose last seen features are kept in memory to answer from when Redis is away."""
    max_body_bytes: Annotated[int, Field(gt=0)] = 1_000_000
    """Larger request bodies are refused with 413."""
    stale_hours: Annotated[float, Field(gt=0)] = 24
    """Features older than this are counted as stale; they are used all the same."""
    lateness_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 168
    """Events that lie this far before the newest one are refused; a log may bring them."""
    log_rows: Annotated[int, Field(gt=0)] = 100_000
    """Predictions waiting to be written; what comes on top is lost and counted."""
    log_seconds: Annotated[float, Field(gt=0)] = 60
    """A file of the prediction log covers at most this long."""

    @field_validator("api_keys")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if any(len(key) < SHORTEST_KEY for key in _split(value)):
            raise ValueError(f"each API key needs at least {SHORTEST_KEY} characters")
        return value

    @property
    def keys(self) -> list[str]:
        """The API keys, in plain text."""
        return _split(self.api_keys)


def _split(keys: SecretStr) -> list[str]:
    return [key.strip() for key in keys.get_secret_value().split(",") if key.strip()]
