"""What every request passes first: API keys, rates, a JSON body of bounded size, and the count."""

import hmac
import ipaddress
import math
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse

from bento.metrics import process_metrics
from bento.settings import ServiceSettings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_CLIENTS = 10_000
"""Clients whose rate is remembered; the one that was quiet longest is forgotten first."""
BEARER = {"WWW-Authenticate": "Bearer"}
POSTED = frozenset({"/predict", "/predict_batch", "/events"})
CLOSED = POSTED | {"/model", "/metrics"}
ROUTES = CLOSED | {"/livez", "/healthz", "/readyz", "/", "/docs.json"}


class RequestMiddleware:
    """ASGI middleware; refuses in plain JSON (`{"error": …}`) and an exact status."""

    def __init__(self, app: App, settings: ServiceSettings) -> None:
        self._app = app
        self._metrics = process_metrics()
        self._settings = settings
        self._access = AccessControl(settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in ROUTES else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(route, message["status"]).inc()
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, counted)
        elif scope["method"] != "POST":
            await self._app(scope, receive, counted)
        else:
            await self._with_body(scope, receive, counted)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        if scope["path"] in CLOSED and (denied := self._access.refusal(scope)):
            return JSONResponse({"error": denied.message}, denied.status, denied.headers)
        if scope["method"] != "POST" or scope["path"] not in POSTED:
            return None
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"application/json").split(b";")[0].strip().lower()
        if kind != b"application/json":
            return _refuse(415, "The body must be application/json.")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._settings.max_body_bytes:
            return self._too_large()
        return None

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Read here and bounded: a body may come in chunks, without saying how long it is.
        chunks, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = message.get("more_body", False)
            if size > self._settings.max_body_bytes:
                await self._too_large()(scope, receive, send)
                return
        if scope["path"] in POSTED and not size:
            await _refuse(400, "The body is empty; send a JSON object.")(scope, receive, send)
            return
        body: Message | None = {"type": "http.request", "body": b"".join(chunks)}

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message, body = body, None
            return message

        await self._app(scope, replay, send)

    def _too_large(self) -> JSONResponse:
        return _refuse(413, f"The body is larger than {self._settings.max_body_bytes} bytes.")


@dataclass(frozen=True)
class AccessRefusal:
    """Why a request is not let in."""

    status: int
    message: str
    headers: dict[str, str]


class AccessControl:
    """API keys and rate limits of one worker process.

    Without keys only requests from the service's own machine are answered.
    """

    def __init__(
        self, settings: ServiceSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = [key.encode() for key in settings.keys]
        self._rate = settings.rate_limit
        self._burst = max(1.0, 2 * settings.rate_limit) if settings.rate_limit else 0.0
        self._clock = clock
        self._tokens: dict[bytes, tuple[float, float]] = {}

    def refusal(self, scope: Scope) -> AccessRefusal | None:
        """What to answer instead, or None to let the request of this ASGI scope in."""
        address = (scope.get("client") or ("", 0))[0]
        if self._keys:
            key = _sent_key(dict(scope["headers"]))
            # Every key is compared, each in constant time: timing reveals nothing.
            if not sum(hmac.compare_digest(key, known) for known in self._keys):
                return AccessRefusal(
                    401, "A valid API key is needed, in the header X-Api-Key.", BEARER
                )
            client = key
        elif not _is_loopback(address):
            return AccessRefusal(
                401, "This service has no API keys and answers its own machine alone.", {}
            )
        else:
            client = address.encode()
        return self._exceeds_rate(client)

    def _exceeds_rate(self, client: bytes) -> AccessRefusal | None:
        """A token bucket per client: `rate_limit` a second, bursts of twice as many."""
        if not self._rate:
            return None
        now = self._clock()
        tokens, before = self._tokens.pop(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - before) * self._rate)
        enough = tokens >= 1
        self._tokens[client] = (tokens - enough, now)
        if len(self._tokens) > MAX_CLIENTS:
            del self._tokens[next(iter(self._tokens))]
        if enough:
            return None
        seconds = math.ceil((1 - tokens) / self._rate)
        return AccessRefusal(
            429, f"More than {self._rate:g} requests a second.", {"Retry-After": str(seconds)}
        )


def _refuse(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)


def _sent_key(headers: dict[bytes, bytes]) -> bytes:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return headers.get(b"x-api-key") or (token.strip() if scheme.lower() == b"bearer" else b"")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
