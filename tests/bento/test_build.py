"""`bentoml build`: what the Bento holds, what its image would be, and that it serves by itself."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from bento.export import BASE_IMAGE, export_champion
from bento.serve import _stop
from nextbuy.network import free_port
from nextbuy.settings import PROJECT
from tests.bento.small_shop import contract, fitted
from tests.shop import register

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def champion(settings, store):
    register(settings, fitted("xgboost"), contract())
    return export_champion(settings)


@pytest.fixture(scope="module")
def built(settings, champion):
    """The folder of a Bento made by the command that the README gives."""
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    environment["NEXTBUY_SERVICE_API_KEYS"] = "a-secret-of-the-shop"
    subprocess.run(
        [BIN / "bentoml", "build", "--version", "tested"],
        cwd=PROJECT,
        env=environment,
        check=True,
    )
    return Path(os.environ["BENTOML_HOME"]) / "bentos" / "nextbuy" / "tested"


def test_it_holds_the_service_and_the_champion_and_nothing_else(built, champion):
    top = {path.name for path in (built / "src").iterdir()}
    assert top <= {"bento", "nextbuy", "feature_repo", "configs", "requirements", "bentofile.yaml"}
    assert not (built / "src" / "nextbuy" / "cli").exists()
    described = (built / "bento.yaml").read_text()
    assert set(re.findall(r"nextbuy:v[\w-]+", described)) == {champion}


def test_the_image_is_pinned_runs_as_nobody_special_and_knows_no_secret(built):
    dockerfile = (built / "env" / "docker" / "Dockerfile").read_text()
    assert re.search(rf"^FROM {re.escape(BASE_IMAGE)} ", dockerfile, re.M)
    users = re.findall(r"^USER (\S+)", dockerfile, re.M)
    assert users == ["bentoml"]
    assert re.findall(r"^ARG BENTO_USER_UID=(\d+)", dockerfile, re.M) != ["0"]
    everything = b"".join(path.read_bytes() for path in built.rglob("*") if path.is_file())
    assert b"a-secret-of-the-shop" not in everything
    packages = (built / "env" / "python" / "requirements.txt").read_text()
    assert packages.count("--hash=") > packages.count("==")


def test_the_generated_dockerfile_passes_the_lint(built):
    subprocess.run(
        [BIN / "hadolint", "--config", PROJECT / "containers" / "hadolint.yaml",
         built / "env" / "docker" / "Dockerfile"],
        check=True,
    )  # fmt: skip


HIDE = """
import importlib.metadata, re, sys
from pathlib import Path

plain = lambda name: re.sub(r"[-_.]+", "-", name).lower()
text = Path(sys.argv[1]).read_text()
lock = {plain(name) for name in re.findall(r"^([\\w.-]+)(?:\\[.*\\])?==", text, re.M)}
known = importlib.metadata.packages_distributions()

class Hide:
    def find_spec(self, name, path=None, target=None):
        owners = {plain(owner) for owner in known.get(name, ())} - {"nextbuy"}
        if owners and not owners & lock:
            raise ModuleNotFoundError(f"{name} is not in the image", name=name)

sys.meta_path.insert(0, Hide())
"""


def test_the_service_loads_and_scores_with_the_packages_of_the_image_alone(champion):
    code = HIDE + (
        "import bento.service, bentoml\n"
        "from bento.reader import OnlineFeatures\n"
        "from bento.model import Model\n"
        "from nextbuy.settings import Settings\n"
        "stored = bentoml.models.get(sys.argv[2])\n"
        "model = Model('m', Path(stored.path))\n"
        "block = OnlineFeatures(Settings(), model.contract).read(['u1'], ['i003']).matrix\n"
        "assert 0 < model.booster.predict(block)[0] < 1\n"
        "import lightgbm\n"
        "assert 'mlflow' not in sys.modules\n"
    )
    lock = PROJECT / "requirements" / "service.lock"
    subprocess.run([sys.executable, "-c", code, lock, champion], cwd=PROJECT, check=True)


def test_the_bento_serves_from_its_own_folder(built, champion, tmp_path):
    port = free_port()
    log = tmp_path / "bento.prediction_writer"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [BIN / "bentoml", "serve", "nextbuy:tested", "--host", "127.0.0.1",
             "--port", str(port)],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        try:
            url = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 120
            ready = False
            while not ready and server.poll() is None and time.monotonic() < deadline:
                time.sleep(0.1)
                try:
                    ready = httpx.get(f"{url}/readyz", timeout=30).is_success
                except httpx.HTTPError:
                    continue
            assert ready, log.read_text()
            body = {"user_id": "u1", "item_ids": ["i001", "i003"]}
            answer = httpx.post(f"{url}/predict", json=body, timeout=60).json()
            assert answer["model"] == champion
            assert [item["rank"] for item in answer["items"]] == [1, 2]
            folders = {Path(f"/proc/{pid}/cwd").resolve() for pid in _workers(server.pid)}
            assert folders == {built / "src"}
        finally:
            _stop(server)


def _workers(arbiter):
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(arbiter)], capture_output=True, text=True, check=True
    )
    return [int(pid) for pid in children.stdout.split()]
