"""How the service behaves, read from the environment: a container is configured by nothing else."""

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, SecretStr, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from nextbuy.settings import EnvironmentSettings

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
STARTED_BY = "NEXTBUY_STARTED_BY"
"""Environment variable: process id of the verb that a server belongs to, and with which it ends."""


class ServiceSettings(EnvironmentSettings):
    """Limits, budgets and secrets of the service (`NEXTBUY_SERVICE_*`).

    >>> ServiceSettings(time_budget_ms=20).time_budget_ms
    20
    """

    model_config = SettingsConfigDict(
        env_prefix="NEXTBUY_SERVICE_", frozen=True, extra="forbid", hide_input_in_errors=True
    )

    api_keys: SecretStr = SecretStr("")
    """Keys separated by commas. None: only requests from this machine are answered."""
    event_keys: SecretStr = SecretStr("")
    """Keys, separated by commas, that open `POST /events` alone: for collectors and a shop's pages,
    which show theirs to every visitor."""
    cors_origins: str = ""
    """Origins, separated by commas, whose pages may post events (`https://shop.example`)."""
    trusted_proxies: str = ""
    """Addresses or networks, separated by commas, of the proxies whose X-Forwarded-For is believed
    (`10.0.0.0/8`). None: a request's address is the one it was sent from."""
    rate_limit: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    """Requests a second that each key (without keys: each address; event keys: each of its
    addresses) has in each worker; 0: any."""
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
    at: Literal["newest"] | AwareDatetime | None = None
    """The present that horizons are looked at from, for a log of the past: `newest` is the end of
    the published log. Unset: the clock."""
    stale_hours: Annotated[float, Field(gt=0)] = 24
    """Features older than this are counted as stale; they are used all the same."""
    lateness_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 168
    """Events that lie this far before the end of the published log are refused; a log may bring
    them. Those that lie this far after it are taken, and counted as far ahead."""
    max_lag_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0
    """Beyond this age of the oldest live event that waits, `/readyz` answers 503 with the reason.
    0: never, as answers from features that stand still are better than none, and every worker of
    a shop lags alike. Set it where another service, with events of its own, can answer instead."""
    log_rows: Annotated[int, Field(gt=0)] = 100_000
    """Predictions waiting to be written; what comes on top is lost and counted."""
    log_seconds: Annotated[float, Field(gt=0)] = 60
    """A file of the prediction log covers at most this long."""

    @field_validator("api_keys", "event_keys")
    @classmethod
    def _long_enough(cls, value: SecretStr) -> SecretStr:
        if any(len(key) < SHORTEST_KEY for key in _split(value.get_secret_value())):
            raise ValueError(f"each API key needs at least {SHORTEST_KEY} characters")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in _split(value):
            if not re.fullmatch(r"https?://[^/\s*?#@]+", origin):
                raise ValueError(f"{origin} is no origin; write it as https://shop.example")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, value: str) -> str:
        for proxy in _split(value):
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise ValueError(f"no address or network: {error}") from None
        return value

    @model_validator(mode="after")
    def _no_key_is_both(self) -> "ServiceSettings":
        if set(self.keys) & set(self.keys_for_events):
            raise ValueError("a key of event_keys is also one of api_keys, which open everything")
        return self

    @property
    def keys(self) -> list[str]:
        """The API keys, in plain text."""
        return _split(self.api_keys.get_secret_value())

    @property
    def keys_for_events(self) -> list[str]:
        """The keys for `POST /events` alone, in plain text."""
        return _split(self.event_keys.get_secret_value())

    @property
    def origins(self) -> frozenset[bytes]:
        """The origins whose pages may post events, as a browser sends them."""
        return frozenset(origin.lower().encode() for origin in _split(self.cors_origins))


def _split(listed: str) -> list[str]:
    return [part.strip() for part in listed.split(",") if part.strip()]
