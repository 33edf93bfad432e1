"""What the service answers to GET: the model, the metrics, and the API page.

BentoML's own page at `/` loads a tracking script from outside, and its API description lacks these
routes; both are replaced here, which comes first in the routing.
"""

from typing import Any

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from bento.events import events
from bento.middleware import POSTED
from bento.settings import MAX_EVENTS
from nextbuy.events import Event

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


def index(_: Request) -> Response:
    """The API page, without anything from outside."""
    return HTMLResponse(PAGE)


def model(_: Request) -> Response:
    """Which model answers, and what it was trained on."""
    served = bentoml.get_current_service().runtime.scorer.model
    return JSONResponse({"model": served.tag, **served.info.model_dump(mode="json")})


def metrics(_: Request) -> Response:
    """Prometheus metrics of all workers."""
    client: Any = BentoMLContainer.metrics_client.get()
    return Response(client.generate_latest(), media_type=client.CONTENT_TYPE_LATEST)


def openapi(_: Request) -> Response:
    """The OpenAPI description."""
    service = bentoml.get_current_service().bento_service
    described: dict[str, Any] = service.openapi_spec.asdict()
    described["openapi"] = "3.1.0"  # the schemas are of its dialect: `null` is a type
    described["info"] |= {"title": "Nextbuy", "contact": {}}
    described["components"]["schemas"]["Refused"] = REFUSED
    event = Event.model_json_schema(ref_template="#/components/schemas/{model}")
    described["components"]["schemas"] |= event.pop("$defs") | {"Event": event}
    described["paths"]["/events"] = {"post": EVENTS}
    for path in POSTED:
        described["paths"][path]["post"]["requestBody"]["required"] = True
        answers = described["paths"][path]["post"]["responses"]
        answers.pop(404, None)  # an unknown shopper is no error
        answers |= {status: _refused(why) for status, why in REFUSALS.items()}
    described["paths"]["/model"] = {"get": MODEL}
    return JSONResponse(described)


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


pages = Starlette(
    routes=[
        Route("/", index),
        Route("/model", model),
        Route("/metrics", metrics),
        Route("/docs.json", openapi),
        Route("/events", events, methods=["POST"]),
    ]
)
