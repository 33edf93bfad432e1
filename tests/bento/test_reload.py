"""A new champion and a challenger in the shadow, on a server that answers all the while."""

import threading
import time

import httpx
import numpy as np
import pytest

from bento.reload import reload
from bento.serve import deployment_file, running
from nextbuy.contract import CHALLENGER
from nextbuy.errors import NextbuyError
from nextbuy.prediction_log import read_predictions
from tests.bento.small_shop import FEATURES, contract, fitted, objects, register

BODY = {"user_id": "u1", "item_ids": ["i003", "i050"]}
NARROW = ("item__price", "user_item__n_views")


def narrow_booster():
    """A challenger with two features, in another order of columns than the champion's."""
    import xgboost

    random = np.random.default_rng(5)
    matrix = random.integers(0, 10, (500, 2)).astype(np.float32)
    label = (matrix[:, 1] > matrix[:, 0]).astype(int)
    return xgboost.train(
        {"objective": "binary:logistic", "max_depth": 3}, xgboost.DMatrix(matrix, label), 10
    )


@pytest.fixture(scope="module")
def url(settings, store):
    register(settings, fitted("xgboost", seed=1), contract())
    with running(settings) as base:
        yield base


def port(url):
    return int(url.rsplit(":", 1)[1])


def model(url):
    return httpx.get(f"{url}/model", timeout=60).json()["model"]


def wait_for_rows(settings, wanted):
    deadline = time.monotonic() + 60
    found = []
    while not found and time.monotonic() < deadline:
        found = [row for row in read_predictions(settings).to_pylist() if wanted(row)]
    return found


def test_under_load_no_request_fails_and_only_the_new_model_answers_afterwards(settings, url):
    old = model(url)
    register(settings, fitted("lightgbm", seed=2), contract("lightgbm"))
    done, seen, failed = threading.Event(), [], []

    def client(keep_alive):
        limits = httpx.Limits(max_keepalive_connections=None if keep_alive else 0)
        with httpx.Client(base_url=url, timeout=60, limits=limits) as connection:
            while not done.is_set():
                try:
                    response = connection.post("/predict", json=BODY)
                    assert response.status_code == 200
                    seen.append((time.monotonic(), response.json()["model"]))
                except Exception as error:
                    failed.append(error)

    threads = [threading.Thread(target=client, args=(n % 2 == 0,)) for n in range(4)]
    for thread in threads:
        thread.start()
    try:
        new = reload(settings, port(url)).model
        after = time.monotonic()
        while not any(moment > after + 1 for moment, _ in seen):
            time.sleep(0.05)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert {name for _, name in seen} == {old, new}
    assert {name for moment, name in seen if moment > after + 0.5} == {new}
    assert model(url) == new != old


def test_the_present_champion_again_changes_nothing(settings, url):
    file = deployment_file(settings, port(url))
    workers = sorted(file.with_suffix(".ready").iterdir())
    assert reload(settings, port(url)).model == model(url)
    assert sorted(file.with_suffix(".ready").iterdir()) == workers


def test_a_challenger_scores_in_the_shadow_by_its_own_contract(settings, url):
    challenger = narrow_booster()
    register(settings, challenger, contract(features=NARROW, categories={}), CHALLENGER)
    champion = model(url)
    deployment = reload(settings, port(url), shadow=True)
    context = {"i003": {"item__price": 1, "item__brand": "zen"}}
    answer = httpx.post(f"{url}/predict", json=BODY | {"context": context}, timeout=60).json()
    assert answer["model"] == deployment.model == champion
    found = wait_for_rows(
        settings, lambda row: row["request_id"] == answer["request_id"] and row["is_shadow"]
    )
    vectors = {row["item_id"]: row["vector"] for row in found}
    np.testing.assert_array_equal(vectors["i003"], [1, 3])  # the context, as far as it fits
    np.testing.assert_array_equal(vectors["i050"], [0, np.nan])
    block = np.array([vectors[row["item_id"]] for row in found], np.float32)
    expected = challenger.inplace_predict(block)
    assert [row["probability"] for row in found] == expected.astype(float).tolist()
    assert [row["rank"] for row in found] == [1, 2]
    assert {row["model"] for row in found} == {deployment.shadow} != {champion}
    answered = wait_for_rows(
        settings, lambda row: row["request_id"] == answer["request_id"] and not row["is_shadow"]
    )
    assert {len(row["vector"]) for row in answered} == {len(FEATURES)}
    lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
    assert "nextbuy_shadow_rows_total 2.0" in lines


def test_a_champion_that_does_not_fit_the_registry_is_refused_and_the_old_one_goes_on(
    settings, store, url
):
    before = model(url)
    register(settings, fitted("xgboost", seed=3), contract())
    store.apply(objects(without=("item__price",)), partial=False)
    try:
        with pytest.raises(NextbuyError, match="item__price is not in the service"):
            reload(settings, port(url))
    finally:
        store.apply(objects())
    assert model(url) == before
    assert reload(settings, port(url)).model != before


def test_a_second_server_leaves_the_counts_of_the_first(settings, url):
    def scored():
        lines = httpx.get(f"{url}/metrics", timeout=60).text.splitlines()
        return [line for line in lines if line.startswith("nextbuy_rows_total")]

    httpx.post(f"{url}/predict", json=BODY, timeout=60)
    before = scored()
    with running(settings) as other:
        httpx.post(f"{other}/predict", json=BODY, timeout=60)
        assert scored() == before
    assert scored() == before


def test_without_a_server_the_message_says_how_to_start_one(settings, store):
    with pytest.raises(NextbuyError, match="nextbuy serve --port 1"):
        reload(settings, 1)
