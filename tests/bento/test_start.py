import subprocess
import sys

import httpx
import numpy as np
import pytest

from bento.reader import OnlineFeatures
from bento.serve import running
from nextbuy.errors import NextbuyError
from nextbuy.settings import PROJECT
from tests.bento.small_shop import FEATURES, contract, fitted, objects
from tests.shop import register


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_service": "other"}, "no feature service 'other'"),
        ({"features": (*FEATURES, "item__weight")}, "item__weight is not in the service"),
        ({"categories": {}}, "item__brand is String in the registry, a number in the model"),
        (
            {"categories": {"item__price": ("1",), "item__brand": ("acme",)}},
            "item__price is Int64 in the registry, a category in the model",
        ),
    ],
)
def test_contract_that_differs_from_the_registry_names_the_feature(
    settings, store, changes, message
):
    with pytest.raises(NextbuyError, match=message):
        OnlineFeatures(settings, contract(**changes))


def test_columns_are_read_by_name_whatever_the_order(settings, store):
    turned = FEATURES[::-1]
    ordered = OnlineFeatures(settings, contract()).read(["u1"], ["i003"])
    reversed_ = OnlineFeatures(settings, contract(features=turned)).read(["u1"], ["i003"])
    assert ordered.matrix.tolist() == [[3, 5, 3, 1, 3]]
    assert reversed_.matrix.tolist() == [[3, 1, 3, 5, 3]]
    assert ordered.event_times == reversed_.event_times


def test_matrix_is_the_contracts_encoding_of_the_columns(settings, store):
    users, items = ["u1", "u2", "new"] * 3, ["i003"] * 3 + ["i008"] * 3 + ["new"] * 3
    features = OnlineFeatures(settings, contract())
    columns = store.get_online_features(
        store.get_feature_service(contract().feature_service),
        {"user_id": users, "item_id": items},
        full_feature_names=True,
    ).to_dict()
    expected = contract().matrix(columns)
    np.testing.assert_array_equal(features.read(users, items).matrix, expected)
    alone = features.read(["u1", "u1"], ["i003", "new"])
    np.testing.assert_array_equal(alone.matrix, expected[[0, 6]])
    none = contract(features=FEATURES[:3], categories={})
    np.testing.assert_array_equal(
        OnlineFeatures(settings, none).read(users, items).matrix, expected[:, :3]
    )


def test_service_refuses_to_start_when_the_registry_lost_a_feature(settings, store):
    register(settings, fitted("xgboost"), contract())
    store.apply(objects(without=("item__price",)), partial=False)
    try:
        with (
            pytest.raises(NextbuyError, match="item__price is not in the service"),
            running(settings),
        ):
            pass
    finally:
        store.apply(objects())


def test_taken_port_is_said_at_once(settings, store):
    register(settings, fitted("lightgbm"), contract("lightgbm"))
    with running(settings) as url:
        port = int(url.rsplit(":", 1)[1])
        with pytest.raises(NextbuyError, match="Choose another port"), running(settings, port):
            pass
        assert httpx.get(f"{url}/model").json()["contract"]["family"] == "lightgbm"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/model")


def test_foreground_server_ends_with_the_signal_and_leaves_no_process(settings, store, tmp_path):
    register(settings, fitted("xgboost"), contract())
    code = (
        "from bento.serve import serve\n"
        "from nextbuy.network import free_port\n"
        "from nextbuy.settings import Settings\n"
        "port = free_port()\n"
        "print(port, flush=True)\n"
        "serve(Settings(), port=port)\n"
    )
    log = tmp_path / "server.log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
        with httpx.Client(transport=httpx.HTTPTransport(retries=5), timeout=60) as client:
            ready = False
            while not ready and process.poll() is None:
                try:
                    ready = client.get(f"{url}/readyz").is_success
                except httpx.HTTPError:
                    continue
        assert ready, log.read_text()
        process.terminate()
        process.stdout.read()
        assert process.wait(60) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/livez")
