"""What CI runs: a valid workflow, of commands that a developer has too."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
JOBS = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))


def commands(job):
    return [step["run"] for step in job["steps"] if "run" in step]


def made(text):
    return set(re.findall(r"\bmake ([\w-]+)", text))


def test_they_keep_the_schema_of_workflows():
    command = [BIN / "check-jsonschema", "--builtin-schema", "vendor.github-workflows"]
    subprocess.run([*command, *WORKFLOWS], check=True)


def test_every_python_that_the_project_names_is_tried():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", project["requires-python"]).groups()
    named = JOBS["test"]["strategy"]["matrix"]["python"]
    assert named == [f"3.{minor}" for minor in range(int(low), int(high))]


def test_every_target_is_there_and_all_tests_are_run():
    whole = "\n".join(line for job in JOBS.values() for line in commands(job))
    slow = set(JOBS["slow"]["strategy"]["matrix"]["what"])
    assert made(whole) | slow <= TARGETS
    tests = {target for target in TARGETS if re.match(r"test|coverage|lint|types|audit", target)}
    assert tests <= made(whole) | slow


def test_a_developer_runs_the_same():
    here = made((ROOT / ".ci" / "run").read_text())
    assert {"lint", "types", "test", "test-service"} <= here <= TARGETS
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    assert made("\n".join(hook["entry"] for hook in hooks)) <= here


def test_no_job_may_write_or_run_for_ever():
    text = "".join(file.read_text() for file in WORKFLOWS)
    assert "permissions:\n  contents: read" in text
    assert "secrets." not in text
    assert all(job["timeout-minutes"] <= 60 for job in JOBS.values())
