"""Whatever comes in, the answer is one that the API page documents."""

import math

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from bento.serve import running
from tests.bento.small_shop import FEATURES, ITEMS, contract, fitted
from tests.shop import register

POSTED = st.sampled_from(["/predict", "/predict_batch"])
MANY = examples(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
SCALAR = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, width=64) | TEXT
).filter(lambda v: not isinstance(v, float) or math.isfinite(v))
VALUE = st.recursive(
    SCALAR,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=5),
    max_leaves=20,
)
IDS = st.sampled_from([*ITEMS[:5], "u1", "new"]) | TEXT.filter(bool).map(lambda t: t[:256])
CHANGES = st.dictionaries(
    st.sampled_from(FEATURES), st.none() | st.integers(-(10**9), 10**9) | TEXT, max_size=3
)


@st.composite
def requests(draw):
    """Well-formed requests, some with a context of the right shape and any content."""
    body = {"user_id": draw(IDS), "reasons": draw(st.integers(0, 10))}
    if draw(st.booleans()):
        body["untouched"] = draw(st.booleans())
    if draw(st.booleans()):
        body["item_ids"] = draw(st.lists(IDS, min_size=1, max_size=20))
        if draw(st.booleans()):
            item = draw(st.sampled_from(body["item_ids"]))
            body["context"] = {item: draw(CHANGES)}
    return body


@st.composite
def spoiled(draw):
    """A well-formed request with one field replaced, dropped or added."""
    body = draw(requests())
    name = draw(st.sampled_from(["user_id", "item_ids", "context", "reasons", "untouched"]) | TEXT)
    if draw(st.booleans()):
        body[name] = draw(VALUE)
    else:
        body.pop(name, None)
    return body


@pytest.fixture(scope="module")
def client(settings, store):
    register(settings, fitted("xgboost"), contract())
    with running(settings) as url, httpx.Client(base_url=url, timeout=60) as found:
        yield found


@pytest.fixture(scope="module")
def documented(client):
    paths = client.get("/docs.json").json()["paths"]
    return {path: set(paths[path]["post"]["responses"]) for path in ("/predict", "/predict_batch")}


def check(client, documented, path, **sent):
    response = client.post(path, **sent)
    assert response.status_code < 500, (sent, response.text)
    assert str(response.status_code) in documented[path]
    answer = response.json()
    if response.status_code != 200:
        assert answer["error"]
    return response.status_code, answer


@MANY
@given(body=requests())
def test_well_formed_requests_are_answered_or_their_context_is_refused(client, documented, body):
    status, answer = check(client, documented, "/predict", json=body)
    if "context" not in body:
        assert status == 200
    if status == 200:
        asked = set(body.get("item_ids", ITEMS[:5] if body["user_id"] == "u1" else []))
        assert {item["item_id"] for item in answer["items"]} == asked
        touched = ITEMS[:10] if body["user_id"] == "u1" else []
        for item in answer["items"]:
            is_touched = item["item_id"] in touched
            assert item["state"] == ("open" if is_touched else "untouched")
            if is_touched or body.get("untouched"):
                assert 0 <= item["probability"] <= 1
            else:
                assert item["probability"] is item["rank"] is None


@MANY
@given(body=spoiled())
def test_spoiled_requests_never_fail_the_server(client, documented, body):
    check(client, documented, "/predict", json=body)
    check(client, documented, "/predict_batch", json={"requests": [body]})


@MANY
@given(path=POSTED, body=VALUE)
def test_any_json_never_fails_the_server(client, documented, path, body):
    check(client, documented, path, json=body)


@MANY
@given(
    path=POSTED,
    body=st.binary(max_size=1000),
    kind=st.just("application/json") | st.text(st.characters(codec="ascii", categories=["L", "P"])),
)
def test_any_bytes_never_fail_the_server(client, documented, path, body, kind):
    check(client, documented, path, content=body, headers={"content-type": kind})


def test_log_holds_no_trace_of_a_failure(client, settings):
    log = (settings.data / "logs" / "service.log").read_text()
    assert "ValidationError" not in log
    assert "Traceback" not in log
