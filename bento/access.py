"""Who may ask, and how often."""

import hmac
import ipaddress
import math
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from bento.settings import ServiceSettings

CLIENTS = 10_000
"""Clients whose rate is remembered; the one that was quiet longest is forgotten first."""

CHALLENGE = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True)
class Refusal:
    """Why a request is not let in."""

    status: int
    message: str
    headers: dict[str, str]


class Access:
    """API keys and rate limits of one worker process.

    Without keys the service is open to its own machine and closed to all others.
    """

    def __init__(
        self, settings: ServiceSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = [key.encode() for key in settings.keys]
        self._rate = settings.rate_limit
        self._burst = max(1.0, 2 * settings.rate_limit) if settings.rate_limit else 0.0
        self._clock = clock
        self._tokens: dict[bytes, tuple[float, float]] = {}

    def refusal(self, scope: MutableMapping[str, Any]) -> Refusal | None:
        """What to answer instead, or None to let the request of this ASGI scope in."""
        address = (scope.get("client") or ("", 0))[0]
        if self._keys:
            given = _given(dict(scope["headers"]))
            # Every key is compared, each in constant time: the answer's delay tells nothing.
            if not sum(hmac.compare_digest(given, key) for key in self._keys):
                return Refusal(
                    401, "A valid API key is needed, in the header X-Api-Key.", CHALLENGE
                )
            client = given
        elif not _is_loopback(address):
            return Refusal(
                401, "This service has no API keys and answers its own machine alone.", {}
            )
        else:
            client = address.encode()
        return self._too_often(client)

    def _too_often(self, client: bytes) -> Refusal | None:
        """A bucket of tokens for each client: `rate_limit` a second, twice as many at once."""
        if not self._rate:
            return None
        now = self._clock()
        tokens, then = self._tokens.pop(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - then) * self._rate)
        enough = tokens >= 1
        self._tokens[client] = (tokens - enough, now)
        if len(self._tokens) > CLIENTS:
            del self._tokens[next(iter(self._tokens))]
        if enough:
            return None
        wait = math.ceil((1 - tokens) / self._rate)
        return Refusal(
            429, f"More than {self._rate:g} requests a second.", {"Retry-After": str(wait)}
        )


def _given(headers: dict[bytes, bytes]) -> bytes:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return headers.get(b"x-api-key") or (token.strip() if scheme.lower() == b"bearer" else b"")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
