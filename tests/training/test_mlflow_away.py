"""A real MLflow server, killed in the middle of a training."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

from nextbuy.contract import CHALLENGER, CHAMPION
from nextbuy.errors import NextbuyError
from nextbuy.models import registry
from nextbuy.models.family import ModelConfig
from nextbuy.network import free_port
from tests.processes import end_group
from tests.training.small_dataset import dataset
from training.config import TrainConfig
from training.train import train

FIRST = TrainConfig(model=ModelConfig(rounds=1, learning_rate=0.001, threads=1))
SECOND = TrainConfig(model=ModelConfig(rounds=10, threads=1))


def alias(settings, name):
    return str(registry.version_of(registry.client(settings), name).version)


def silent(message):
    pass


@contextmanager
def mlflow_server(folder, port):
    """A real MLflow server on a real store, ready to answer."""
    server = subprocess.Popen(
        [Path(sys.executable).parent / "mlflow", "server", "--host", "127.0.0.1",
         "--port", str(port), "--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
         "--artifacts-destination", folder / "artifacts"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < deadline, "the MLflow server does not start"
                assert server.poll() is None, "the MLflow server ended"
                time.sleep(0.2)
        yield server
    finally:
        end_group(server, signal.SIGKILL)


def test_the_champion_stays_and_the_training_can_be_run_again(settings, monkeypatch, tmp_path):
    """A real server, killed after it has taken the new model in and before any alias moves."""
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("training.train.FAMILIES", ("lightgbm",))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    remote, data = type(settings)(), dataset()
    take_in = registry.log_booster
    with mlflow_server(tmp_path, port) as server:
        first = train(remote, data, FIRST, silent)

        def and_dies(*arguments):
            version = take_in(*arguments)
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            return version

        monkeypatch.setattr(registry, "log_booster", and_dies)
        with pytest.raises(NextbuyError, match="The champion is what it was"):
            train(remote, data, SECOND, silent)
        monkeypatch.setattr(registry, "log_booster", take_in)
        with pytest.raises(NextbuyError, match="does not answer"):
            train(remote, data, SECOND, silent)
    with mlflow_server(tmp_path, port):
        assert alias(remote, CHAMPION) == alias(remote, CHALLENGER) == first.version
        again = train(remote, data, SECOND, silent)
        assert again.fitted
        assert alias(remote, CHALLENGER) == again.version
        assert alias(remote, CHAMPION) == first.version
