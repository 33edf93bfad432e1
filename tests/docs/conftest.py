"""A small shop on which the demo has run, in a folder that looks like the repository."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nextbuy.settings import PROJECT
from nextbuy.stores.online.redis_server import find_redis_server

BIN = Path(sys.executable).parent


@pytest.fixture(scope="session")
def shop(tmp_path_factory):
    """(folder, environment): the repository's files by links, and a demo in `data/demo`."""
    folder = tmp_path_factory.mktemp("shop")
    ours = subprocess.run(
        ["git", "ls-files"], cwd=PROJECT, check=True, capture_output=True, text=True
    ).stdout.split()
    for name in sorted({file.split("/")[0] for file in ours} | {".venv"}):
        (folder / name).symlink_to(PROJECT / name)
    env = {
        **os.environ,
        "PATH": f"{BIN}:{find_redis_server().parent}:{os.environ['PATH']}",
        "NEXTBUY_DATA": str(folder / "data" / "demo"),
        "BENTOML_HOME": str(folder / "bentoml"),
        "COLUMNS": "120",
    }
    for name in ("REDIS_URL", "MLFLOW_TRACKING_URI", "NEXTBUY_CONFIG", "FEAST_FS_YAML_FILE_PATH"):
        env.pop(name, None)
    command = ["nextbuy", "demo", "--shoppers", "150", "--days", "160"]
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=folder, env=env, check=False, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, env
