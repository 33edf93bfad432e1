"""The routes beside `/predict`: events in, the model, the metrics, and the API page.

They come first in the routing. The service puts the worker's `Runtime` and itself into
`routes.state`.
"""

from asyncio import wrap_future
from collections import Counter
from collections.abc import Mapping

from pydantic_core import from_json
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from bento.api_page import HEADERS, PAGE, description
from bento.event_writer import EventWriter, WrittenEvents
from bento.metrics import exposition
from bento.settings import MAX_EVENTS
from nextbuy.live.event_store import EventRow
from nextbuy.times import to_datetime

DISK_ERROR = "The disk does not take events: {}. Send them again later; nothing was kept."


async def events(request: Request) -> Response:
    """Take one event, or `{"events": [...]}`; valid ones are on the disk when the answer comes.

    200: all of them are kept (or were before); 207: some are; 400: none is; 503: the disk is full
    or out of reach.
    """
    try:
        # Unlike Python's own reader it refuses NaN, deep nesting and halves of characters.
        body = from_json(await request.body(), allow_inf_nan=False)
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
    far_ahead = sum(map(writer.is_far_ahead, rows.values()))
    return _events_response(len(sent), written, refused, far_ahead, writer.log_end_us)


def _events_response(
    sent: int,
    written: WrittenEvents,
    refused: Mapping[int, str],
    far_ahead: int,
    log_end_us: int | None,
) -> Response:
    counts = Counter(written.outcomes)
    listed = [{"index": index, "error": refused[index]} for index in sorted(refused)]
    body = {
        "accepted": counts["new"],
        "duplicates": counts["duplicate"],
        "refused": listed,
        "new_items": written.new_items,
        "far_ahead": far_ahead,
        "log_ends": log_end_us and f"{to_datetime(log_end_us):%Y-%m-%dT%H:%M:%S.%fZ}",
    }
    if len(refused) < sent:
        return JSONResponse(body, 207 if refused else 200)
    error = f"No event is valid; event {listed[0]['index']}: {listed[0]['error']}."
    return JSONResponse({"error": error, **body}, 400)


def _refuse(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)


def model(request: Request) -> Response:
    """Which model answers, of which data folder, what it means, and what it was trained on."""
    runtime = request.app.state.runtime
    served = runtime.active.scorer.model
    shop = served.contract.shop
    return JSONResponse(
        {
            "model": served.tag,
            "shop": runtime.shop._asdict(),
            "answers": shop.question if shop else None,
            "horizon_days": shop.labels.horizon_days if shop else None,
            "session_gap_minutes": shop.sessions.gap_minutes if shop else None,
            "time_zone": shop.time_zone if shop else None,
            **served.info.model_dump(mode="json"),
        }
    )


def metrics(request: Request) -> Response:
    """Prometheus metrics of all workers, and of the live events."""
    content, media_type = exposition(request.app.state.runtime.live_health())
    return Response(content, media_type=media_type)


def index(_: Request) -> Response:
    """The API page."""
    return Response(PAGE, media_type="text/html", headers=HEADERS)


def openapi(request: Request) -> Response:
    """The OpenAPI description of all routes."""
    state = request.app.state
    return JSONResponse(description(state.service, state.is_keyed))


def to_page(_: Request) -> Response:
    """Where many look for the API page."""
    return RedirectResponse("./")


routes = Starlette(
    routes=[
        Route("/", index),
        Route("/model", model),
        Route("/metrics", metrics),
        Route("/docs", to_page),
        Route("/docs.json", openapi),
        Route("/openapi.json", openapi),
        Route("/events", events, methods=["POST"]),
    ]
)
