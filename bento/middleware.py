"""What stands before every request: keys, rates, a JSON body of bounded size; and the count."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse

from bento.access import Access
from bento.handover import Handover
from bento.metrics import process_metrics
from bento.settings import ServiceSettings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

POSTED = frozenset({"/predict", "/predict_batch", "/events"})
CLOSED = POSTED | {"/model", "/metrics"}
ROUTES = CLOSED | {"/livez", "/healthz", "/readyz", "/", "/docs.json"}


class Guard:
    """ASGI middleware; refuses in plain JSON (`{"error": …}`) and an exact status."""

    def __init__(self, app: App, settings: ServiceSettings, handover: Handover) -> None:
        self._app = app
        self._handover = handover
        self._metrics = process_metrics()
        self._settings = settings
        self._access = Access(self._settings)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route = scope["path"] if scope["path"] in ROUTES else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(route, message["status"]).inc()
                if self._handover.leaving:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await refusal(scope, receive, counted)
        elif scope["method"] != "POST":
            await self._app(scope, receive, counted)
        else:
            await self._with_body(scope, receive, counted)

    def _refusal(self, scope: Scope) -> JSONResponse | None:
        if scope["path"] in CLOSED and (no := self._access.refusal(scope)):
            return JSONResponse({"error": no.message}, no.status, no.headers)
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


def _refuse(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status)
