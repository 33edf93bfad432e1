"""A new champion and a challenger in the shadow, on a server that answers all the while."""

import os
import signal
import threading
import time

import httpx
import numpy as np
import pytest

from bento.export import Deployment
from bento.reload import DeploymentWatcher, WorkerState, reload, worker_states
from bento.scorer import ActiveScorer
from bento.serve import deployment_file, running, worker_notes
from nextbuy.contract import CHALLENGER
from nextbuy.errors import NextbuyError
from nextbuy.prediction_log import read_predictions
from tests.bento.small_shop import FEATURES, contract, fitted, objects
from tests.shop import register

WORKERS = 2
BODY = {"user_id": "u1", "item_ids": ["i003", "i050"], "untouched": True}
VECTORS = np.array([[3, 5, 3, 1, 3], [3, 5, 0, 0, np.nan]], np.float32)
"""What the models see of BODY."""
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
def first():
    return fitted("xgboost", seed=1)


@pytest.fixture(scope="module")
def url(settings, store, first):
    register(settings, first, contract())
    with running(settings, workers=WORKERS) as base:
        until(lambda: len(workers(settings, base)) == WORKERS)
        yield base


def workers(settings, url):
    """Process id -> state of each worker that answers."""
    return dict(worker_states(deployment_file(settings, port(url))))


def until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def port(url):
    return int(url.rsplit(":", 1)[1])


def model(url):
    return httpx.get(f"{url}/model", timeout=60).json()["model"]


def wait_for_rows(settings, condition):
    deadline = time.monotonic() + 60
    rows = []
    while not rows and time.monotonic() < deadline:
        rows = [row for row in read_predictions(settings).to_pylist() if condition(row)]
    return rows


def test_under_load_no_request_fails_and_only_the_new_model_answers_afterwards(
    settings, url, first
):
    old = model(url)
    before = workers(settings, url)
    second = fitted("lightgbm", seed=2)
    register(settings, second, contract("lightgbm"))
    done, answers, failed = threading.Event(), [], []

    def client(keep_alive, path, body):
        limits = httpx.Limits(max_keepalive_connections=None if keep_alive else 0)
        with httpx.Client(base_url=url, timeout=60, limits=limits) as connection:
            while not done.is_set():
                try:
                    response = connection.post(path, json=body)
                    assert response.status_code == 200
                    predictions = response.json().get("predictions", [response.json()])
                    [name] = {prediction["model"] for prediction in predictions}
                    scores = [
                        {item["item_id"]: item["probability"] for item in prediction["items"]}
                        for prediction in predictions
                    ]
                    answers.append((time.monotonic(), name, scores))
                except Exception as error:
                    failed.append(error)

    batch = ("/predict_batch", {"requests": [BODY, BODY]})
    calls = [("/predict", BODY), ("/predict", BODY), batch]
    threads = [
        threading.Thread(target=client, args=(keep_alive, *call))
        for keep_alive in (True, False)
        for call in calls
    ]
    for thread in threads:
        thread.start()
    try:
        new = reload(settings, port(url)).model
        after = time.monotonic()
        until(lambda: any(moment > after + 1 for moment, _, _ in answers))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert {name for _, name, _ in answers} == {old, new}
    assert {name for moment, name, _ in answers if moment > after + 0.5} == {new}
    expected = {
        old: first.inplace_predict(VECTORS).astype(float),
        new: second.predict(VECTORS).astype(float),
    }
    for _, name, scores in answers:
        right = dict(zip(BODY["item_ids"], expected[name].tolist(), strict=True))
        assert all(each == right for each in scores)
    assert model(url) == new != old
    assert workers(settings, url).keys() == before.keys()  # the same processes


def test_the_present_champion_again_changes_nothing(settings, url):
    before = workers(settings, url)
    assert len(before) == WORKERS
    assert reload(settings, port(url)).model == model(url)
    assert workers(settings, url) == before


def test_a_worker_that_starts_after_a_swap_loads_the_deployed_model(settings, url):
    deployed = model(url)
    killed, *_ = workers(settings, url)
    os.kill(killed, signal.SIGKILL)
    until(lambda: len(workers(settings, url).keys() - {killed}) == WORKERS)
    assert {state.deployment.model for state in workers(settings, url).values()} == {deployed}
    assert {model(url) for _ in range(20)} == {deployed}


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
    file = deployment_file(settings, port(url))
    deployed = file.read_text()
    register(settings, fitted("xgboost", seed=3), contract())
    store.apply(objects(without=("item__price",)), partial=False)
    try:
        with pytest.raises(NextbuyError, match="item__price is not in the service"):
            reload(settings, port(url))
    finally:
        store.apply(objects())
    assert file.read_text() == deployed
    assert {model(url) for _ in range(20)} == {before}
    new = reload(settings, port(url)).model
    assert {model(url) for _ in range(20)} == {new} != {before}


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


def test_a_watcher_tries_a_deployment_once_and_takes_the_next(tmp_path):
    file = tmp_path / "3000.json"
    loaded, bad, good = (Deployment(model=f"nextbuy:{name}") for name in ("v1", "v2", "v3"))
    swaps = []

    def swap(deployment):
        swaps.append(deployment)
        if deployment == bad:
            raise NextbuyError("it does not fit")

    def state():
        return WorkerState.model_validate_json((worker_notes(file) / str(os.getpid())).read_text())

    loaded.write(file)
    watcher = DeploymentWatcher(file, loaded, swap)
    watcher.start()
    assert state().deployment == loaded
    bad.write(file)
    until(lambda: state().refusal == "it does not fit")
    assert state().deployment == loaded
    time.sleep(1)
    good.write(file)
    until(lambda: state().deployment == good)
    assert state().refusal is None
    file.write_text("{torn")
    until(lambda: state().refusal)
    assert state().deployment == good
    assert swaps == [bad, good]
    watcher.close()
    assert not list(worker_notes(file).iterdir())


class SlowScorer:
    """Answers when it is let; cannot answer once it is closed."""

    def __init__(self, name):
        self.name = name
        self.begun, self.let, self.closed = (threading.Event() for _ in range(3))

    def answer(self, requests):
        self.begun.set()
        self.let.wait()
        assert not self.closed.is_set()
        return [self.name]

    def close(self):
        self.closed.set()


def test_a_scorer_is_closed_after_the_requests_that_use_it():
    old, new = SlowScorer("old"), SlowScorer("new")
    new.let.set()
    active, answers = ActiveScorer(old), []
    request = threading.Thread(target=lambda: answers.append(active.answer([])))
    request.start()
    old.begun.wait()
    swap = threading.Thread(target=active.replace, args=(new,))
    swap.start()
    until(lambda: active.scorer is new)
    assert active.answer([]) == ["new"]  # it does not wait for the old one's request
    assert not old.closed.is_set()
    old.let.set()
    request.join()
    swap.join()
    assert answers == [["old"]]
    assert old.closed.is_set()
    assert not new.closed.is_set()
