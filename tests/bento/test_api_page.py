"""Schemathesis asks the service whatever its OpenAPI page allows, and what it does not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bento.serve import running
from tests.bento.small_shop import contract, fitted
from tests.shop import register


@pytest.fixture(scope="module")
def url(settings, store):
    register(settings, fitted("xgboost"), contract())
    with running(settings) as base:
        yield base


def test_the_service_does_what_its_page_says(url, tmp_path):
    done = subprocess.run(
        [
            *(Path(sys.executable).parent / "schemathesis", "run", f"{url}/docs.json"),
            # A schema cannot say that context names items of item_ids and features of the model;
            # BentoML's does not say that item_ids may be null, which is as if they were left out.
            *("--checks", "all"),
            *("--exclude-checks", "positive_data_acceptance,negative_data_rejection"),
            *("--max-examples", os.environ.get("EXAMPLES", "30")),
            *("--seed", "1", "--request-timeout", "60", "--no-color"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"(\d+) selected / \1 total", done.stdout)
