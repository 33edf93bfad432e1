"""What the pages say without being run: links, fences, generated parts, quoted messages."""

import ast
import re
import subprocess

import pytest

from nextbuy.ingest.quarantine import REMEDIES
from nextbuy.settings import PROJECT
from tests.docs.conftest import BIN
from tests.docs.pages import LANGUAGES, PAGES, RUN, blocks, commands, elsewhere

FOLDERS = ("nextbuy", "generators", "training", "bento", "monitoring")


def name(page):
    return str(page.relative_to(PROJECT))


def anchors(page):
    """What GitHub makes of the headings: lower case, no punctuation, dashes for blanks."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name(page)}: {target}"
        if anchor:
            assert anchor in anchors(found), f"{name(page)}: {target}"


def test_every_page_is_in_the_index():
    index = (PROJECT / "docs" / "README.md").read_text()
    for page in (PROJECT / "docs").iterdir():
        if page.suffix in (".md", ".ipynb") and page.name != "README.md":
            assert f"]({page.name}" in index, f"docs/README.md does not name {page.name}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_says_what_it_is(page):
    fences = page.read_text().count("\n```") + page.read_text().startswith("```")
    assert fences == 2 * len(blocks(page))
    for language, text in blocks(page):
        assert language in LANGUAGES, f"{name(page)}: mark this block sh, text, …:\n{text}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_is_run_or_says_by_what(page):
    for command in commands(page):
        other = elsewhere(command)
        assert other or re.match(RUN, command), f"{name(page)}: nothing runs {command!r}"
        if other:
            file, text = other
            assert file.exists(), f"{command!r} should be run by {file}, which is not there"
            assert text in file.read_text(), f"{file} does not say {text!r} of {command!r}"


@pytest.mark.parametrize("page", ["commands.md", "feature-catalogue.md"])
def test_generated_pages_are_current(page, tmp_path):
    """The line of `make docs` that writes the page, writing elsewhere."""
    recipe = re.search(rf"^\t\$\(BIN\)/(.* docs/{page})$", (PROJECT / "Makefile").read_text(), re.M)
    assert recipe, f"no target of the Makefile writes {page}"
    command = recipe[1].replace(f"docs/{page}", str(tmp_path / page))
    subprocess.run(f"{BIN}/{command}", shell=True, cwd=PROJECT, check=True, capture_output=True)
    assert (tmp_path / page).read_text() == (PROJECT / "docs" / page).read_text(), "run: make docs"


def test_the_reasons_for_quarantine_are_those_of_the_code():
    text = (PROJECT / "docs" / "sources.md").read_text()
    said = text.split("<!-- reasons: nextbuy/ingest/quarantine.py -->")[1].split(
        "<!-- /reasons -->"
    )[0]
    assert dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", said, re.MULTILINE)) == REMEDIES


def test_the_messages_of_the_troubleshooting_page_are_those_of_the_product():
    written = [(PROJECT / "Makefile").read_text()]
    for folder in FOLDERS:
        for file in (PROJECT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                # An f-string's fixed parts, and whole strings; joined literals are one node.
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    written.append(node.value)
    product = "\0".join(" ".join(text.split()) for text in written)
    text = (PROJECT / "docs" / "troubleshooting.md").read_text()
    messages = re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)
    assert len(messages) > 40
    parts = [part.strip(" .") for message in messages for part in message.split("…")]
    assert not [part for part in parts if part not in product]


def test_paths_named_in_the_pages_are_there():
    folders = "|".join((*FOLDERS, "feature_repo", "tests", "configs", "benchmarks", "containers"))
    for page in PAGES:
        for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", page.read_text()):
            assert "NAME" in path or (PROJECT / path).exists(), f"{name(page)}: {path}"


DIFFS = [
    text for language, text in blocks(PROJECT / "docs" / "contributing.md") if language == "diff"
]


@pytest.mark.parametrize("diff", DIFFS, ids=lambda diff: diff.split()[2].removeprefix("a/"))
def test_a_diff_of_the_contributing_page_applies_to_the_code(diff):
    subprocess.run(["git", "apply", "--check", "-"], input=diff, text=True, cwd=PROJECT, check=True)


def test_each_way_to_extend_is_shown_by_a_diff():
    text = (PROJECT / "docs" / "contributing.md").read_text()
    for what in ("feature", "source", "check", "model family", "dashboard page"):
        section = re.search(rf"^## Add a {what}$(.*?)^## ", text, re.MULTILINE | re.DOTALL)
        assert section, what
        assert "```diff" in section[1], what
