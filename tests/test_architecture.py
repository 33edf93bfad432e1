"""The walls of the house, held by reading the code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("generators", "training", "bento", "monitoring")
FOLDERS = ("nextbuy", "feature_repo", *STAGES)
FILES = sorted(f for folder in FOLDERS for f in (ROOT / folder).rglob("*.py"))


def imported(file):
    """Every module the file imports, at the top or inside a function."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_stages_meet_through_artefacts_alone(file):
    folder = file.relative_to(ROOT).parts[0]
    if file.is_relative_to(ROOT / "nextbuy" / "cli"):
        return  # the composition root
    allowed = {"nextbuy", folder}
    ours = {name.split(".")[0] for name in imported(file)} & set(FOLDERS)
    assert ours <= allowed, f"{file} reaches into {ours - allowed}"


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_no_module_grows_past_400_lines(file):
    assert len(file.read_text().splitlines()) <= 400


def test_no_folder_carries_a_dependency_s_import_name():
    from importlib.metadata import packages_distributions

    taken = packages_distributions()
    for folder in (*FOLDERS, "benchmarks"):
        owners = {name for name in taken.get(folder, []) if name != "nextbuy"}
        assert not owners, f"{folder} is also a module of {owners}"


def test_feature_names_are_written_in_one_place():
    from nextbuy.features import TABLES

    telling = {f.name for t in TABLES for f in t.features if f.name.count("_") >= 2}
    for file in FILES:
        if not file.is_relative_to(ROOT / "nextbuy" / "features"):
            text = {
                node.value
                for node in ast.walk(ast.parse(file.read_text()))
                if isinstance(node, ast.Constant) and isinstance(node.value, str)
            }
            assert not text & telling, f"{file} writes {text & telling} again"
