"""The API page and its OpenAPI description, in our own words and with nothing from outside.

BentoML's page loads a tracking script, its description shows pictures of other sites and lacks our
routes. Swagger UI itself, which BentoML brings along, is used as it is; it would have the
description judged by a site of its own, which `validatorUrl: null` prevents.
"""

import base64
import hashlib
from typing import Any

from bento.middleware import POSTED
from bento.settings import MAX_EVENTS
from nextbuy.events import Event

SCRIPT = """
SwaggerUIBundle({
  url: "./docs.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  presets: [SwaggerUIBundle.presets.apis], layout: "BaseLayout",
});
"""
PAGE = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="UTF-8">
<title>Nextbuy</title>
<link rel="stylesheet" href="./static_content/swagger-ui.css">
<link rel="icon" href="data:,">
</head>
<body>
<div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js" charset="UTF-8"></script>
<script>{SCRIPT}</script>
</body>
</html>
"""
_HASH = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; "
    f"style-src 'self' 'unsafe-inline'; script-src 'self' 'sha256-{_HASH}'"
}
"""What the browser holds the page to: it loads nothing from other sites."""

ABOUT = """Will this shopper buy this item in their next session? `POST /predict` answers with a
calibrated probability for each item, `POST /predict_batch` for several shoppers at once, and
`POST /events` takes what shoppers do, so that the next answer knows it.

Without API keys the service answers its own machine alone. With keys, send one as `X-Api-Key` or as
a bearer token (*Authorize*); a key for events opens `POST /events` alone. The ids of the examples
are the demo's. An error is `{"error": "one sentence"}`, for a request that is not valid with
`detail`, its mistakes by field."""
SHOP, HEALTH = "Predictions and events", "Health"
INFRASTRUCTURE = {
    "/livez": "200 while the process answers.",
    "/healthz": "The same as `/livez`.",
    "/readyz": "200 while the model is loaded and Redis answers; else 503.",
    "/metrics": "Prometheus metrics of all workers.",
}
REFUSED = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string"},
        "detail": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "loc": {"type": "array", "items": {"type": "string"}},
                    "msg": {"type": "string"},
                },
            },
        },
    },
}
REFUSALS = {
    400: "The request is not valid; `detail` names the fields.",
    401: "The API key is missing or wrong.",
    403: "The key is for events alone; or, without keys, a page of another origin sent this.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not declared as JSON.",
    429: "Too many requests, or too many wrong keys.",
    503: "The feature store does not answer, and the service is set to refuse then.",
    504: "It took too long.",
}
SECURITY = {
    "ApiKey": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
    "Bearer": {"type": "http", "scheme": "bearer"},
}
EXAMPLE = {
    "event_id": "8d1c0b7e",
    "user_id": "u000042",
    "event_time": "2024-06-28T09:30:00Z",
    "event_type": "add_to_cart",
    "item_id": "i00007",
    "price": 1999,
}


def description(service: Any, is_keyed: bool) -> dict[str, Any]:
    """The OpenAPI description: BentoML's, with our words, routes and refusals.

    Args:
        service: the BentoML service.
        is_keyed: whether the closed routes need a key.
    """
    spec: dict[str, Any] = service.openapi_spec.asdict()
    spec["openapi"] = "3.1.0"  # the schemas are of its dialect: `null` is a type
    spec["info"] = {"title": "Nextbuy", "version": "1", "description": ABOUT}
    spec["tags"] = [{"name": SHOP}, {"name": HEALTH}]
    schemas = spec["components"]["schemas"]
    schemas["Refused"] = REFUSED
    event = Event.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= event.pop("$defs") | {"Event": event}
    paths = spec["paths"]
    paths["/events"] = {"post": EVENTS}
    paths["/model"] = {"get": MODEL}
    for path, words in INFRASTRUCTURE.items():
        paths[path]["get"] |= {"description": words, "tags": [HEALTH]}
    for path in POSTED:
        posted = paths[path]["post"]
        posted["tags"] = [SHOP]
        posted["requestBody"]["required"] = True
        posted["responses"].pop(404, None)  # an unknown shopper is no error
        posted["responses"].pop(500, None)  # a fault of ours, nothing to prepare for
        posted["responses"] |= {status: _refused(why) for status, why in REFUSALS.items()}
    spec["components"]["securitySchemes"] = SECURITY
    if is_keyed:
        closed = [paths[path]["post"] for path in POSTED]
        for operation in (*closed, paths["/model"]["get"], paths["/metrics"]["get"]):
            operation["security"] = [{name: []} for name in SECURITY]
            operation["responses"] |= {401: _refused(REFUSALS[401])}
    return spec


def _refused(why: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/Refused"}
    return {"description": why, "content": {"application/json": {"schema": schema}}}


EVENTS: dict[str, Any] = {
    "summary": "Take one event, or several",
    "description": "They are on the disk when the answer comes; what is sent twice counts once. "
    "`far_ahead` counts events far after the end of the published log (`log_ends`): the shopper's "
    "features know them at once, labels when enough others have come up to them.",
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "anyOf": [
                        {"$ref": "#/components/schemas/Event"},
                        {
                            "type": "object",
                            "required": ["events"],
                            "properties": {
                                "events": {
                                    "type": "array",
                                    "minItems": 1,
                                    "maxItems": MAX_EVENTS,
                                    "items": {"$ref": "#/components/schemas/Event"},
                                }
                            },
                        },
                    ]
                },
                "examples": {
                    "several": {"value": {"events": [EXAMPLE]}},
                    "one": {"value": EXAMPLE},
                },
            }
        },
    },
    "responses": {
        200: {"description": "All events are kept, or were before"},
        207: {"description": "Some are kept; `refused` names the others by index"},
    },
}
MODEL: dict[str, Any] = {
    "tags": [SHOP],
    "description": "Which model answers, of which data folder (`shop`), what its probabilities "
    "mean (`answers`, `horizon_days`, `session_gap_minutes`, `time_zone`; null for a model of an "
    "older version), and what it was trained on.",
    "responses": {200: {"description": "The model's card"}},
}
