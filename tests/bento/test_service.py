import time
from datetime import timedelta

import httpx
import numpy as np
import pytest

from bento.client import predict
from bento.serve import running
from nextbuy.errors import NextbuyError
from nextbuy.prediction_log import read_predictions
from tests.bento.small_shop import AT, FEATURES, ITEMS, contract, fitted
from tests.shop import register

STAMP = AT.isoformat().replace("+00:00", "Z")


@pytest.fixture(scope="module")
def booster():
    return fitted("xgboost")


@pytest.fixture(scope="module")
def url(settings, store, booster):
    register(settings, booster, contract())
    with running(settings) as base:
        yield base


@pytest.fixture(scope="module")
def post(url):
    with httpx.Client(base_url=url, timeout=30) as client:
        yield lambda body, path="/predict", **more: client.post(path, json=body, **more)


def expected(booster, vectors):
    import xgboost

    block = np.array(vectors, np.float32)
    kinds = booster.feature_types
    data = xgboost.DMatrix(block, feature_types=kinds, enable_categorical=True)
    return booster.predict(data).astype(float)


def test_probabilities_are_the_boosters_for_the_stored_features(post, booster):
    answer = post({"user_id": "u1", "item_ids": ["i003", "i008", "i050"], "untouched": True}).json()
    given = {item["item_id"]: item["probability"] for item in answer["items"]}
    nan = np.nan
    vectors = [[3, 5, 3, 1, 3], [3, 5, 8, 0, 8], [3, 5, 0, 0, nan]]
    want = dict(zip(["i003", "i008", "i050"], expected(booster, vectors), strict=True))
    assert given == want
    assert not answer["cold_start"]
    assert not answer["degraded"]


def test_items_are_ranked_by_probability_then_id(post):
    items = post({"user_id": "u1", "item_ids": ITEMS[::-1], "untouched": True}).json()["items"]
    assert sorted(item["item_id"] for item in items) == ITEMS
    assert [item["rank"] for item in items] == list(range(1, len(ITEMS) + 1))
    order = [(-item["probability"], item["item_id"]) for item in items]
    assert order == sorted(order)
    assert len({item["probability"] for item in items}) < len(items)  # there were ties to break


def test_without_items_the_latest_session_is_scored(post):
    items = post({"user_id": "u1"}).json()["items"]
    assert sorted(item["item_id"] for item in items) == ITEMS[:5]


def by_item(answer):
    return {item["item_id"]: item for item in answer["items"]}


def test_an_answer_says_how_old_it_is_and_until_when_it_holds(post):
    answer = post({"user_id": "u1", "item_ids": ["i003"]}).json()
    assert answer["as_of"] == "2024-05-02T12:00:00Z"
    assert answer["last_event_at"] == "2024-05-01T12:00:00Z"
    assert answer["age_seconds"] == 86_400
    assert answer["horizon_ends"] == "2024-05-31T12:00:00Z"
    item = by_item(answer)["i003"]
    assert (item["state"], item["rank"]) == ("open", 1)
    assert (item["touched_at"], item["horizon_ends"]) == (
        "2024-05-01T12:00:00Z",
        "2024-05-31T12:00:00Z",
    )


def test_beyond_the_horizon_there_is_no_probability(post):
    answer = post({"user_id": "u2"}).json()
    assert [item["item_id"] for item in answer["items"]] == ["i002", "i001"]
    expired = by_item(answer)["i001"]
    assert (expired["state"], expired["probability"], expired["rank"]) == ("expired", None, None)
    assert expired["touched_at"] == "2024-04-01T12:00:00Z"
    assert expired["horizon_ends"] == "2024-05-01T12:00:00Z"
    assert by_item(answer)["i002"]["state"] == "open"
    assert by_item(answer)["i002"]["rank"] == 1
    # The request cannot ask for it either: nobody has learned what it would mean.
    named = post({"user_id": "u2", "item_ids": ["i001"], "untouched": True}).json()
    assert by_item(named)["i001"]["probability"] is None


def test_an_item_never_touched_is_answered_only_on_request(post, booster):
    body = {"user_id": "u2", "item_ids": ["i002", "i003"], "reasons": 1}
    item = by_item(post(body).json())["i003"]
    assert (item["state"], item["probability"], item["rank"]) == ("untouched", None, None)
    assert (item["touched_at"], item["horizon_ends"], item["reasons"]) == (None, None, None)
    item = by_item(post(body | {"untouched": True}).json())["i003"]
    assert item["state"] == "untouched"
    assert item["probability"] == expected(booster, [[8, 2, 3, 1, np.nan]])[0]
    assert item["reasons"]


def test_of_a_stranger_no_age_is_known(post):
    for body in ({"user_id": "new"}, {"user_id": "new", "item_ids": ["i003"]}):
        answer = post(body).json()
        assert answer["as_of"] == "2024-05-02T12:00:00Z"
        for name in ("last_event_at", "age_seconds", "horizon_ends"):
            assert answer[name] is None


def test_item_asked_twice_is_answered_once(post):
    items = post({"user_id": "u1", "item_ids": ["i001", "i001"]}).json()["items"]
    assert [item["item_id"] for item in items] == ["i001"]


def test_freshness_is_when_the_features_became_known(post):
    answer = post({"user_id": "u1", "item_ids": ["i001", "i050"]}).json()
    assert answer["features_at"] == {"user": STAMP, "session": STAMP}
    by_item = {item["item_id"]: item["features_at"] for item in answer["items"]}
    assert by_item["i001"] == {"item": STAMP, "user_item": STAMP}
    assert by_item["i050"] == {"item": STAMP, "user_item": None}


def test_unknown_shopper_and_item_are_scored_from_missing_values(post, booster):
    answer = post({"user_id": "new", "item_ids": ["new", "i003"], "untouched": True}).json()
    items = {item["item_id"]: item for item in answer["items"]}
    assert answer["cold_start"]
    assert answer["features_at"] == {"user": None, "session": None}
    assert items["new"]["cold_start"]
    assert items["new"]["features_at"] == {"item": None, "user_item": None}
    assert not items["i003"]["cold_start"]
    assert items["new"]["probability"] == expected(booster, [[np.nan] * 5])[0]


def test_unknown_shopper_without_items_gets_an_empty_list(post):
    answer = post({"user_id": "new"}).json()
    assert answer["items"] == []
    assert answer["cold_start"]


def test_context_replaces_stored_values(post, booster):
    context = {"i003": {"item__price": 0, "item__brand": "zen", "user__n_sessions": None}}
    body = {"user_id": "u1", "item_ids": ["i003", "i008"], "context": context}
    given = {i["item_id"]: i["probability"] for i in post(body).json()["items"]}
    vectors = [[np.nan, 5, 0, 1, 3], [3, 5, 8, 0, 8]]
    assert given == dict(zip(["i003", "i008"], expected(booster, vectors), strict=True))


def test_batch_answers_each_request_as_alone(post):
    requests = [
        {"user_id": "u1", "item_ids": ["i001", "i050"]},
        {"user_id": "new"},
        {"user_id": "u2", "item_ids": ["i001"]},
        {"user_id": "u1", "item_ids": ["i050"], "untouched": True},
        {"user_id": "u1"},
    ]
    together = post({"requests": requests}, "/predict_batch").json()["predictions"]
    alone = [post(request).json() for request in requests]
    for answer in (*together, *alone):
        del answer["request_id"], answer["predicted_at"]
    assert together == alone


def test_reasons_are_the_boosters_contributions_in_words(post, booster):
    import xgboost

    answer = post(
        {"user_id": "u1", "item_ids": ["i003", "new"], "reasons": 2, "untouched": True}
    ).json()
    vectors = {"i003": [3, 5, 3, 1, 3], "new": [3, 5, np.nan, np.nan, np.nan]}
    words = {
        "user__n_sessions": "n_sessions (shopper): 3",
        "session__n_events": "n_events (shopper): 5",
        "item__price": "Price last seen (item): {}",
        "item__brand": "Brand last seen (item): {}",
        "user_item__n_views": "Views of the item (shopper and item): {}",
    }
    values = {"i003": {"item__price": "0.03", "item__brand": "zen", "user_item__n_views": "3"}}
    for item in answer["items"]:
        data = xgboost.DMatrix(
            np.array([vectors[item["item_id"]]], np.float32),
            feature_types=booster.feature_types,
            enable_categorical=True,
        )
        effects = booster.predict(data, pred_contribs=True)[0, :-1]
        strongest = np.argsort(-np.abs(effects))[:2]
        assert [r["feature"] for r in item["reasons"]] == [FEATURES[i] for i in strongest]
        for reason, effect in zip(item["reasons"], effects[strongest], strict=True):
            assert reason["effect"] == float(effect)
            value = values.get(item["item_id"], {}).get(reason["feature"], "not known")
            side = "for" if effect > 0 else "against"
            said = words[reason["feature"]].format(value)
            assert reason["text"] == f"{said}, speaks {side} a purchase"


def test_reasons_are_given_for_the_ten_likeliest(post):
    items = post({"user_id": "u1", "item_ids": ITEMS, "reasons": 1, "untouched": True}).json()[
        "items"
    ]
    assert [bool(item["reasons"]) for item in items] == [True] * 10 + [False] * 110
    assert post({"user_id": "u1"}).json()["items"][0]["reasons"] is None


def test_a_batch_may_ask_for_a_few_reasons(post):
    asking = {"user_id": "u1", "item_ids": ["i001"], "reasons": 1}
    answers = post({"requests": [asking, asking | {"reasons": 0}]}, "/predict_batch").json()
    assert [len(a["items"][0]["reasons"] or ()) for a in answers["predictions"]] == [1, 0]
    refused = post({"requests": [asking] * 11}, "/predict_batch")
    assert refused.status_code == 400
    assert "at most 10 requests" in refused.json()["detail"][0]["msg"]


def test_model_says_what_it_is(url):
    answer = httpx.get(f"{url}/model").json()
    assert answer["contract"]["features"] == list(FEATURES)
    assert answer["model"].startswith(f"nextbuy:v{answer['mlflow_version']}-")
    assert len(answer["run_id"]) == 32


OK = {"user_id": "u1", "item_ids": ["i001"]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_id": ""}, "at least 1 character"),
        ({"user_id": "x" * 257}, "at most 256 characters"),
        ({"user_id": 7}, "valid string"),
        ({"user_id": None}, "valid string"),
        ({"item_ids": []}, "at least 1 item"),
        ({"item_ids": [f"i{n}" for n in range(501)]}, "at most 500 items"),
        ({"item_ids": "i001"}, "valid array"),
        ({"item_ids": [None]}, "valid string"),
        ({"unknown": 1}, "Extra inputs are not permitted"),
        ({"untouched": "yes"}, "valid boolean"),
        ({"reasons": 11}, "less than or equal to 10"),
        ({"context": {"i002": {"item__price": 1}}}, "items that item_ids names"),
    ],
)
def test_bad_field_is_answered_with_400_and_the_reason(post, change, message):
    response = post(OK | change)
    assert response.status_code == 400
    [detail] = response.json()["detail"]
    assert message in detail["msg"]


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"price": 1}, "takes no feature 'price'"),
        ({"item__price": "cheap"}, "item__price is a number"),
        ({"item__brand": 1}, "item__brand is a string"),
        ({"item__price": 1e39}, "item__price is out of range"),
    ],
)
def test_context_that_the_model_does_not_take_is_answered_with_400(post, context, message):
    response = post(OK | {"context": {"i001": context}})
    assert response.status_code == 400
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 400),
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"null", "application/json", 400),
        (b'{"user_id": "\xff"}', "application/json", 400),
        (b'{"user_id": "\\ud800"}', "application/json", 400),
        (b'{"user_id": "u1", "item_ids": ["i001"], "context": {"i001": {"item__price": NaN}}}',
         "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b'{"user_id": "' + b"u" * 10_000_000 + b'"}', "application/json", 413),
        (b"user_id=u1", "application/x-www-form-urlencoded", 415),
        (b"cos\nsystem\n(S'true'\ntR.", "application/vnd.bentoml+pickle", 415),
        (b"user_id: u1", "text/yaml", 415),
    ],
)  # fmt: skip
def test_bad_body_is_answered_with_an_exact_status(url, content, kind, status):
    response = httpx.post(f"{url}/predict", content=content, headers={"content-type": kind})
    assert response.status_code == status
    assert response.json()["error"]


def test_body_without_a_length_is_bounded_too(url):
    response = httpx.post(
        f"{url}/predict",
        content=(b"x" * 100_000 for _ in range(100)),
        headers={"content-type": "application/json"},
    )
    assert response.status_code == 413


def test_wrong_method_and_path(url):
    assert httpx.get(f"{url}/predict").status_code == 405
    assert httpx.post(f"{url}/model").status_code == 405
    assert httpx.get(f"{url}/nothing").status_code == 404


def test_page_loads_nothing_from_outside(url):
    page = httpx.get(url).text
    assert "http" not in page.replace("<!DOCTYPE html>", "")
    assert httpx.get(f"{url}/static_content/swagger-ui-bundle.js").status_code == 200
    described = httpx.get(f"{url}/docs.json").json()
    assert {"/predict", "/predict_batch"} <= described["paths"].keys()


def metric(url, line):
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return float(next((v for v in lines if v.startswith(f"{line} ")), " 0").rsplit(" ", 1)[1])


def test_metrics_count_stages_and_bounded_routes(url, post):
    scored = metric(url, 'nextbuy_stage_seconds_count{stage="model"}')
    cold = metric(url, 'nextbuy_cold_starts_total{kind="shopper"}')
    other = metric(url, 'nextbuy_requests_total{route="other",status="404"}')
    post({"user_id": "new", "item_ids": ["i001"]})
    httpx.get(f"{url}/a/b")
    httpx.get(f"{url}/c?d")
    assert metric(url, 'nextbuy_stage_seconds_count{stage="model"}') == scored + 1
    assert metric(url, 'nextbuy_cold_starts_total{kind="shopper"}') == cold + 1
    assert metric(url, 'nextbuy_requests_total{route="other",status="404"}') == other + 2
    assert metric(url, 'nextbuy_stale_rows_total{view="session"}') > 0
    assert "/a/b" not in httpx.get(f"{url}/metrics").text


def test_answers_are_logged_with_what_the_model_saw(settings, post):
    body = {"user_id": "u1", "item_ids": ["i003", "i050"], "untouched": True}
    answer = post(body).json()
    deadline = time.monotonic() + 30
    found = []
    while not found and time.monotonic() < deadline:
        rows = read_predictions(settings).to_pylist()
        found = [row for row in rows if row["request_id"] == answer["request_id"]]
    assert [(r["rank"], r["item_id"], r["probability"]) for r in found] == [
        (i["rank"], i["item_id"], i["probability"]) for i in answer["items"]
    ]
    vectors = {row["item_id"]: row["vector"] for row in found}
    assert vectors["i003"] == [3, 5, 3, 1, 3]
    assert vectors["i050"][:4] == [3, 5, 0, 0]
    assert np.isnan(vectors["i050"][4])
    assert {row["model"] for row in found} == {answer["model"]}
    assert {row["item_id"]: row["state"] for row in found} == {"i003": "open", "i050": "untouched"}
    assert {row["item_id"]: row["touched_at"] for row in found} == {"i003": AT, "i050": None}
    assert {row["as_of"] for row in found} == {AT + timedelta(days=1)}


def test_what_has_no_answer_is_not_logged(settings, post):
    answer = post({"user_id": "u2", "item_ids": ["i001", "i002", "i050"]}).json()
    found = []
    deadline = time.monotonic() + 30
    while not found and time.monotonic() < deadline:
        rows = read_predictions(settings).to_pylist()
        found = [row for row in rows if row["request_id"] == answer["request_id"]]
    assert [row["item_id"] for row in found] == ["i002"]


def test_client_gives_the_answer_or_says_why_not(url):
    assert predict(url, "u1", ["i001"])["items"][0]["item_id"] == "i001"
    assert len(predict(url, "u1")["items"]) == 5
    with pytest.raises(NextbuyError, match="400"):
        predict(url, "")
    with pytest.raises(NextbuyError, match="nextbuy serve"):
        predict("http://127.0.0.1:9", "u1")
