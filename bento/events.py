"""`POST /events`: events in, acknowledged when they are on the disk."""

import json
from asyncio import wrap_future
from collections import Counter
from typing import Any

import bentoml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from bento.event_writer import Intake, Taken
from bento.settings import MAX_EVENTS
from nextbuy.live.event_store import EventRow

GONE = "The disk does not take events: {}. Send them again later; nothing was kept."


async def events(request: Request) -> Response:
    """Take one event, or `{"events": [...]}`; the good ones are kept, the others named.

    200: all of them are kept (or were before); 207: some are; 400: none is; 503: the disk is full
    or away.
    """
    try:
        body = json.loads(await request.body())
    except ValueError as error:
        return _refuse(400, f"The body is not valid JSON: {error}.")
    given = body["events"] if isinstance(body, dict) and "events" in body else [body]
    if not isinstance(given, list) or not given:
        return _refuse(400, 'Send one event as an object, or several as {"events": [...]}.')
    if len(given) > MAX_EVENTS:
        return _refuse(
            413, f"{len(given)} events in one request; send at most {MAX_EVENTS} at a time."
        )
    intake: Intake = bentoml.get_current_service().runtime.intake
    rows: dict[int, EventRow] = {}
    refused: dict[int, str] = {}
    for index, event in enumerate(given):
        try:
            rows[index] = intake.read(event)
        except ValueError as error:
            refused[index] = str(error)
    taken = Taken([], [])
    if rows:
        try:
            taken = await wrap_future(intake.submit(list(rows.values())))
        except Exception as error:  # SQLite's: the disk is full, or read-only
            return _refuse(503, GONE.format(error))
    for index, outcome in zip(rows, taken.outcomes, strict=True):
        if outcome == "conflict":
            refused[index] = "event_id stands for another event already"
    return _answer(given, taken, refused)


def _answer(given: list[Any], taken: Taken, refused: dict[int, str]) -> Response:
    counts = Counter(taken.outcomes)
    listed = [{"index": i, "error": refused[i]} for i in sorted(refused)]
    body = {
        "accepted": counts["new"],
        "duplicates": counts["duplicate"],
        "refused": listed,
        "new_items": taken.new_items,
    }
    if len(refused) < len(given):
        return JSONResponse(body, 207 if refused else 200)
    error = f"No event is valid; event {listed[0]['index']}: {listed[0]['error']}."
    return JSONResponse({"error": error, **body}, 400)


def _refuse(status: int, message: str) -> Response:
    return JSONResponse({"error": message}, status)
