"""The routes beside `/predict`: events in, the model, the metrics, and the API page.

BentoML's own page at `/` loads a tracking script from outside, and its API description lacks these
routes; both are replaced here, which comes first in the routing. The service puts the worker's
`Runtime` and itself into `routes.state`.
"""

import json
from asyncio import wrap_future
from collections import Counter
from collections.abc import Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from bento.event_writer import EventWriter, WrittenEvents
from bento.metrics import exposition
from bento.middleware import POSTED
from bento.settings import MAX_EVENTS
from nextbuy.events import Event
from nextbuy.live.event_store import EventRow

DISK_ERROR = "The disk does not take events: {}. Send them again later; nothing was kept."
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="UTF-8">
<title>Nextbuy</title>
<link rel="stylesheet" href="./static_content/swagger-ui.css">
<link rel="stylesheet" href="./static_content/index.css">
<link rel="icon" type="image/png" href="./static_content/favicon-light-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js" charset="UTF-8"></script>
<script src="./static_content/swagger-ui-standalone-preset.js" charset="UTF-8"></script>
<script src="./static_content/swagger-initializer.js" charset="UTF-8"></script>
</body>
</html>
"""


async def events(request: Request) -> Response:
    """Take one event, or `{"events": [...]}`; valid ones are on the disk when the answer comes.

    200: all of them are kept (or were before); 207: some are; 400: none is; 503: the disk is full
    or out of reach.
    """
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        return _refuse(400, f"The body is not valid JSON: {error}.")
    sent = body["events"] if isinstance(body, dict) and "events" in body else [body]
    if not isinstance(sent, list) or not sent:
        return _refuse(400, 'Send one event as an object, or several as {"events": [...]}.')
    if len(sent) > MAX_EVENTS:
        return _refuse(
            413, f"{len(sent)} events in one request; send at most {MAX_EVENTS} at a time."
        )
    writer: EventWriter = request.app.state.runtime.event_writer
    rows: dict[int, EventRow] = {}
    refused: dict[int, str] = {}
    for index, event in enumerate(sent):
        try:
            rows[index] = writer.read(event)
        except ValueError as error:
            refused[index] = str(error)
    written = WrittenEvents([], [])
    if rows:
        try:
            written = await wrap_future(writer.submit(list(rows.values())))
        except Exception as error:  # SQLite's: the disk is full, or read-only
            return _refuse(503, DISK_ERROR.format(error))
    for index, outcome in zip(rows, written.outcomes, strict=True):
        if outcome == "conflict":
            refused[index] = "event_id stands for another event already"
    return _events_response(len(sent), written, refused)


def _events_response(sent: int, written: WrittenEvents, refused: Mapping[int, str]) -> Response:
    counts = Counter(written.outcomes)
    listed = [{"index": index, "error": refused[index]} for index in sorted(refused)]
    body = {
        "accepted": counts["new"],
        "duplicates": counts["duplicate"],
        "refused": listed,
        "new_items": written.new_items,
    }
    if len(refused) < sent:
        return JSONResponse(body, 207 if refused else 200)
    error = f"No event is valid; event {listed[0]['index']}: {listed[0]['error']}."
    return JSONResponse({"error": error, **body}, 400)


def _refuse(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


def model(request: Request) -> Response:
    """Which model answers, and what it was trained on."""
    served = request.app.state.runtime.active.scorer.model
    return JSONResponse({"model": served.tag, **served.info.model_dump(mode="json")})


def metrics(_: Request) -> Response:
    """Prometheus metrics of all workers."""
    content, media_type = exposition()
    return Response(content, media_type=media_type)


def index(_: Request) -> Response:
    """The API page, without anything from outside."""
    return HTMLResponse(PAGE)


def openapi(request: Request) -> Response:
    """The OpenAPI description: BentoML's, with the routes and refusals of this module."""
    description: dict[str, Any] = request.app.state.service.openapi_spec.asdict()
    description["openapi"] = "3.1.0"  # the schemas are of its dialect: `null` is a type
    description["info"] |= {"title": "Nextbuy", "contact": {}}
    description["components"]["schemas"]["Refused"] = REFUSED
    event = Event.model_json_schema(ref_template="#/components/schemas/{model}")
    description["components"]["schemas"] |= event.pop("$defs") | {"Event": event}
    description["paths"]["/events"] = {"post": EVENTS}
    for path in POSTED:
        description["paths"][path]["post"]["requestBody"]["required"] = True
        responses = description["paths"][path]["post"]["responses"]
        responses.pop(404, None)  # an unknown shopper is no error
        responses |= {status: _refused(why) for status, why in REFUSALS.items()}
    description["paths"]["/model"] = {"get": MODEL}
    return JSONResponse(description)


REFUSED = {
    "type": "object",
    "required": ["error"],
    "properties": {"error": {"type": "string"}, "detail": {"type": "array", "items": {}}},
}
REFUSALS = {
    400: "The request is not valid; `detail` names the fields.",
    401: "The API key is missing or wrong.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    429: "Too many requests.",
    503: "The feature store does not answer, and the service is set to refuse then.",
    504: "It took too long.",
}


def _refused(why: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Refused"}
    return {"description": why, "content": {"application/json": {"schema": schema}}}


EVENTS: dict[str, Any] = {
    "tags": ["Service APIs"],
    "description": "Take events. They are on the disk when the answer comes; what is sent twice "
    "counts once.",
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["events"],
                    "properties": {
                        "events": {
                            "type": "array",
                            "maxItems": MAX_EVENTS,
                            "items": {"$ref": "#/components/schemas/Event"},
                        }
                    },
                }
            }
        },
    },
    "responses": {
        200: {"description": "All events are kept, or were before"},
        207: {"description": "Some are kept; `refused` names the others by index"},
    },
}


MODEL = {
    "tags": ["Service APIs"],
    "description": "Which model answers, and what it was trained on.",
    "responses": {"200": {"description": "The model's card"}, "401": _refused(REFUSALS[401])},
}


routes = Starlette(
    routes=[
        Route("/", index),
        Route("/model", model),
        Route("/metrics", metrics),
        Route("/docs.json", openapi),
        Route("/events", events, methods=["POST"]),
    ]
)
