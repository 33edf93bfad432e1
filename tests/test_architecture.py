"""The walls of the house, held by reading the code."""

import ast
import re
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("generators", "training", "bento", "monitoring")
FOLDERS = ("nextbuy", "feature_repo", *STAGES)
FILES = sorted(f for folder in FOLDERS for f in (ROOT / folder).rglob("*.py"))
MODULES = {
    ".".join(f.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): f for f in FILES
}
ORDER = (
    "cli",
    "maintenance",
    "live",
    "stores",
    "models",
    "tables",
    "features",
    "ingest",
)
"""The packages of nextbuy: each may import those after it, and the modules beside the packages.

Those modules (settings, events, versioned_table and so on) import no package.
"""
SHARED = {"item_ids"}
"""Features that are called like something else: the items of a request."""
LONG = {
    "tests/nextbuy/test_ingest.py": "every rule of ingestion on one log of three rows",
    "tests/stores/test_online.py": "each behaviour beside stock Feast's, on the same rows",
    "tests/stores/test_point_in_time.py": "the same for the join, with its generators of histories",
}
"""Files past the limit, and why they are one."""


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


def modules_imported(file):
    """Our own modules among them; `from package import module` names the module."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            yield from (inside & MODULES.keys()) or {node.module}


def test_no_module_imports_itself_in_a_circle():
    """Not even by an import inside a function: who needs whom has one direction."""
    graph = {name: set(modules_imported(file)) - {name} for name, file in MODULES.items()}
    assert sum(map(len, graph.values())) > 300
    TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_inside_nextbuy_imports_go_down():
    """From the verbs to the shared vocabulary, in one order."""
    packages = {f.parent.name for f in (ROOT / "nextbuy").glob("*/__init__.py")}
    assert packages == set(ORDER)
    place = {package: number for number, package in enumerate(ORDER)}
    lowest = len(ORDER)
    for name, file in MODULES.items():
        own, *inside = name.split(".")
        if own != "nextbuy" or name == "nextbuy.__main__":
            continue
        here = place.get(inside[0], lowest) if inside else lowest
        for other in modules_imported(file):
            if other.startswith("nextbuy."):
                there = other.split(".")[1]
                assert place.get(there, lowest) >= here, f"{name} imports {other}"


def test_no_file_grows_past_400_lines_without_a_reason():
    more = sorted(f for folder in ("tests", "benchmarks") for f in (ROOT / folder).rglob("*.py"))
    lines = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in [*FILES, *more]}
    assert {name for name, count in lines.items() if count > 400} == LONG.keys()


def test_public_names_are_documented_and_every_lint_rule_has_a_reason():
    text = (ROOT / "pyproject.toml").read_text()
    lint = tomllib.loads(text)["tool"]["ruff"]["lint"]
    assert "D1" in lint["select"]  # make lint fails on a public name without a docstring
    assert not [f for f in lint["per-file-ignores"] if f.split("/")[0] in FOLDERS]
    assert set(lint["ignore"]).isdisjoint({"D100", "D101", "D102", "D103", "D106"})
    section = text[text.index("[tool.ruff.lint]") : text.index("[tool.ruff.lint.isort]")]
    rules = [line for line in section.splitlines() if line.startswith('    "')]
    assert rules
    assert all("#" in line for line in rules)


def test_no_folder_carries_a_dependency_s_import_name():
    from importlib.metadata import packages_distributions

    taken = packages_distributions()
    for folder in (*FOLDERS, "benchmarks"):
        owners = {name for name in taken.get(folder, []) if name != "nextbuy"}
        assert not owners, f"{folder} is also a module of {owners}"


def test_one_class_name_means_one_thing():
    places = {}
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(file.relative_to(ROOT)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_a_name_says_what_it_holds(file):
    """The names that once stood for anything at all."""
    tree = ast.parse(file.read_text())
    named = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    named |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    named |= {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    assert not named & {"found", "asked", "told", "wanted", "aside"}


def strings(file):
    """Every text in the code, docstrings left out: they may name a feature."""
    tree = ast.parse(file.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


def test_feature_names_are_written_in_one_place():
    """Alone, as the model's columns (`view__feature`), and inside SQL."""
    from nextbuy.features import TABLES

    features = {f.name for t in TABLES for f in t.features}
    telling = {name for name in features if "_" in name} - SHARED
    columns = {f"{t.name}__{f.name}" for t in TABLES for f in t.features}
    for file in FILES:
        if not file.is_relative_to(ROOT / "nextbuy" / "features"):
            words = {word for text in strings(file) for word in re.findall(r"\w+", text)}
            again = words & (telling | columns)
            assert not again, f"{file} writes {again} again"
    for file in (ROOT / "configs").rglob("*.yaml"):
        again = (telling | columns) & set(re.findall(r"\w+", file.read_text()))
        assert not again, f"{file} writes {again} again"
