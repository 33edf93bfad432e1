"""What every request passes first: keys and origins, rates, a bounded JSON body, and the count."""

import asyncio
import hmac
import ipaddress
import json
import math
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import JSONResponse, Response

from bento.metrics import process_metrics
from bento.settings import ServiceSettings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_CLIENTS = 10_000
"""Clients whose rate is remembered; the one that was quiet longest is forgotten first."""
MAX_WRONG_KEYS = 10
"""Wrong keys from one address at once; after them it may try one a second."""
UPLOAD_SECONDS = 4.0
"""How long a body may take to arrive: less than the service's timeout, whose answer is a 504."""
MAX_DETAILS = 20
"""Mistakes of a request that are listed."""
INVALID_JSON = "Invalid JSON: "
"""How pydantic begins."""
BEARER = {"WWW-Authenticate": "Bearer"}
POSTED = frozenset({"/predict", "/predict_batch", "/events"})
CLOSED = POSTED | {"/model", "/metrics"}
OPEN = frozenset({"/livez", "/healthz", "/readyz", "/", "/docs", "/docs.json", "/openapi.json"})
FORWARDED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")
"""Headers that a proxy adds."""
PREFLIGHT = {
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "content-type, x-api-key, authorization",
    "Access-Control-Max-Age": "600",
}


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
        route = scope["path"] if scope["path"] in CLOSED | OPEN else "other"
        shared = self._access.shared_with(scope)

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(route, message["status"]).inc()
                message["headers"] = [*message.get("headers", ()), *shared]
            await send(message)

        refusal = self._preflight(scope, shared) or self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, counted)
        elif scope["method"] != "POST":
            await self._app(scope, receive, counted)
        else:
            await self._with_body(scope, receive, counted)

    def _preflight(self, scope: Scope, shared: list[tuple[bytes, bytes]]) -> Response | None:
        """The answer to a browser that asks whether a page of another origin may post."""
        return Response(None, 204, PREFLIGHT) if shared and scope["method"] == "OPTIONS" else None

    def _refusal(self, scope: Scope) -> Response | None:
        if scope["path"] in CLOSED and (denied := self._access.refusal(scope)):
            return JSONResponse({"error": denied.message}, denied.status, denied.headers)
        if not scope["path"].isprintable():
            return _refuse(400, "The path holds characters that no address has.")
        if scope["method"] != "POST" or scope["path"] not in POSTED:
            return None
        # All of them: what comes after may look at the first where this looks at the last.
        kinds = [value for name, value in scope["headers"] if name == b"content-type"]
        if [kind.split(b";")[0].strip().lower() for kind in kinds] != [b"application/json"]:
            return _refuse(415, "The header Content-Type must be application/json.")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._settings.max_body_bytes:
            return self._too_large()
        return None

    async def _with_body(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Read here and bounded: a body may come in chunks, without saying how long it is.
        try:
            async with asyncio.timeout(UPLOAD_SECONDS):
                sent = await self._read_body(receive)
        except TimeoutError:
            late = f"The body did not arrive within {UPLOAD_SECONDS:g} seconds."
            await _refuse(408, late, {"Connection": "close"})(scope, receive, send)
            return
        if sent is None:
            return
        if len(sent) > self._settings.max_body_bytes:
            await self._too_large()(scope, receive, send)
            return
        if scope["path"] in POSTED and not sent:
            await _refuse(400, "The body is empty; send a JSON object.")(scope, receive, send)
            return
        body: Message | None = {"type": "http.request", "body": sent}

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message, body = body, None
            return message

        if scope["path"] in POSTED:
            send = _in_our_words(scope, receive, send)
        await self._app(scope, replay, send)

    async def _read_body(self, receive: Receive) -> bytes | None:
        """The body, or its beginning where it is too large; None if the client went away."""
        chunks, size, more = [], 0, True
        while more and size <= self._settings.max_body_bytes:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            more = message.get("more_body", False)
        return b"".join(chunks)

    def _too_large(self) -> Response:
        return _refuse(413, f"The body is larger than {self._settings.max_body_bytes} bytes.")


@dataclass(frozen=True)
class AccessRefusal:
    """Why a request is not let in."""

    status: int
    message: str
    headers: dict[str, str] = field(default_factory=dict)


class TokenBuckets:
    """A bucket of tokens for each client: `rate` a second, `burst` at once."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._clock = clock
        self._tokens: dict[bytes, tuple[float, float]] = {}

    def __len__(self) -> int:
        """Clients that are remembered."""
        return len(self._tokens)

    def wait(self, client: bytes, *, take: bool = True) -> int:
        """0 if the client has a token, which is then taken; else whole seconds until it has one."""
        now = self._clock()
        tokens, before = self._tokens.pop(client, (self._burst, now))
        tokens = min(self._burst, tokens + (now - before) * self._rate)
        has_one = tokens >= 1
        self._tokens[client] = (tokens - (has_one and take), now)
        if len(self._tokens) > MAX_CLIENTS:
            del self._tokens[next(iter(self._tokens))]
        return 0 if has_one else math.ceil((1 - tokens) / self._rate)


class AccessControl:
    """Who may ask what, and how often, in one worker process.

    An API key opens everything, an event key `POST /events` alone. Without API keys a request of
    the service's own machine needs none, if it neither came through a proxy nor was sent by a page
    of another origin: a browser on this machine runs what strangers wrote. A page under a name that
    an attacker let point to this machine (DNS rebinding) gives itself away by the Host header.
    """

    def __init__(
        self, settings: ServiceSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keys = [key.encode() for key in settings.keys]
        self._event_keys = [key.encode() for key in settings.keys_for_events]
        self._origins = settings.origins
        self._limit = settings.rate_limit
        self._rate = TokenBuckets(self._limit, max(1.0, 2 * self._limit), clock)
        self._wrong = TokenBuckets(1, MAX_WRONG_KEYS, clock)
        self._proven: dict[tuple[bytes, bytes], None] = {}

    def shared_with(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        """The headers that let a page of a permitted origin read this answer; none for others."""
        origin = dict(scope["headers"]).get(b"origin")
        if scope["path"] != "/events" or origin not in self._origins:
            return []
        return [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]

    def refusal(self, scope: Scope) -> AccessRefusal | None:
        """What to answer instead, or None to let the request of this ASGI scope in."""
        address = (scope.get("client") or ("", 0))[0]
        headers = dict(scope["headers"])
        key = _sent_key(headers)
        if key and (self._keys or self._event_keys):
            return self._judge_key(key, address.encode(), scope["path"])
        if self._keys:
            return AccessRefusal(401, "An API key is needed, in the header X-Api-Key.", BEARER)
        if not _is_loopback(address):
            return AccessRefusal(
                401, "This service has no API keys and answers its own machine alone."
            )
        return self._judge_neighbour(headers, scope["path"]) or self._exceeds(address.encode())

    def _judge_key(self, key: bytes, address: bytes, path: str) -> AccessRefusal | None:
        sender = (address, key)
        # Who guesses does not learn whether a guess was right; who was right before goes on.
        if sender not in self._proven and (seconds := self._wrong.wait(address, take=False)):
            return AccessRefusal(
                429, "Too many wrong API keys from this address.", {"Retry-After": str(seconds)}
            )
        is_full, is_for_events = _is_one_of(key, self._keys), _is_one_of(key, self._event_keys)
        if not (is_full or is_for_events):
            self._wrong.wait(address)
            return AccessRefusal(401, "The API key is not valid.", BEARER)
        self._proven[sender] = None
        if len(self._proven) > MAX_CLIENTS:
            del self._proven[next(iter(self._proven))]
        if is_full:
            return self._exceeds(key)
        if path != "/events":
            return AccessRefusal(403, "This key is for POST /events alone.")
        return self._exceeds(key + b" " + address)  # pages of a shop show it to every visitor

    def _judge_neighbour(self, headers: Mapping[bytes, bytes], path: str) -> AccessRefusal | None:
        """What to answer to a request of this machine without a key."""
        if any(name in headers for name in FORWARDED):
            return AccessRefusal(
                401, "This service has no API keys; a request that came through a proxy needs one."
            )
        host = headers.get(b"host", b"")
        if host and not _names_this_machine(host):
            return AccessRefusal(
                403, "This service has no API keys and answers as localhost or 127.0.0.1 alone."
            )
        origin = headers.get(b"origin")
        is_permitted = path == "/events" and origin in self._origins
        if origin is not None and not is_permitted and _authority(origin) != host:
            return AccessRefusal(
                403, "This service has no API keys and takes nothing from pages of another origin."
            )
        return None

    def _exceeds(self, client: bytes) -> AccessRefusal | None:
        if not self._limit or not (seconds := self._rate.wait(client)):
            return None
        return AccessRefusal(
            429, f"More than {self._limit:g} requests a second.", {"Retry-After": str(seconds)}
        )


def _refuse(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse({"error": message}, status, headers)


def _sent_key(headers: Mapping[bytes, bytes]) -> bytes:
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    return headers.get(b"x-api-key") or (token.strip() if scheme.lower() == b"bearer" else b"")


def _is_one_of(key: bytes, keys: Collection[bytes]) -> bool:
    # Every key is compared, each in constant time: timing reveals nothing.
    return bool(sum(hmac.compare_digest(key, known) for known in keys))


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _names_this_machine(host: bytes) -> bool:
    try:
        name = urlsplit(f"//{host.decode('ascii')}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or _is_loopback(name)


def _authority(origin: bytes) -> bytes:
    """Host and port of an origin; nothing of `null`, which sandboxed pages and files send."""
    return origin.partition(b"://")[2]


def _in_our_words(scope: Scope, receive: Receive, send: Send) -> Send:
    """Answers pass; a 400 of BentoML's names its classes and links to pydantic's site: not ours."""
    parts: list[bytes] = []
    start: Message | None = None

    async def explained(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start" and message["status"] == 400:
            start = message
        elif start is None:
            await send(message)
        else:
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                answer = _explained(json.loads(b"".join(parts)))
                await JSONResponse(answer, 400)(scope, receive, send)

    return explained


def _explained(answer: Any) -> dict[str, Any]:
    """The mistakes of a request as one sentence, and as `detail` the first of them by field."""
    answer = answer[0] if isinstance(answer, list) else answer
    if "detail" not in answer:
        return dict(answer)
    detail: list[dict[str, Any]] = [
        {"loc": [str(part)[:80] for part in each["loc"]], "msg": _plain(each["msg"])}
        for each in answer["detail"]
    ]
    if detail[0]["msg"].startswith(INVALID_JSON):
        return {"error": f"The body is not valid JSON: {detail[0]['msg'][len(INVALID_JSON) :]}."}
    first = "; ".join(f"{'.'.join(each['loc']) or 'body'}: {each['msg']}" for each in detail[:3])
    more = f"; and {len(detail) - 3} more" if len(detail) > 3 else ""
    return {"error": f"The request is not valid. {first}{more}.", "detail": detail[:MAX_DETAILS]}


def _plain(message: str) -> str:
    return message.removeprefix("Value error, ")[:300]
