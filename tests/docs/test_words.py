"""Plain technical English: listed words stay out of code, pages and help."""

import re

import pytest
from typer.testing import CliRunner

from nextbuy.cli import app
from nextbuy.cli.app import verb_name
from nextbuy.settings import PROJECT

WORDS = {
    "wants": "needs, requires",
    "put up with": "accepted",
    "made up for": "completed, run",
    "from which on": "after which",
    "held against": "compared with",
    "anew": "again",
    "mend": "fix",
    "mends": "fixes",
    "mended": "fixed",
    "mending": "repair",
    "whoever": "anyone who, the client",
    "aside": "temporary, quarantined",
    "rival": "challenger, incumbent",
    "rivals": "challengers",
    "ripe": "matured",
    "told": "says, is given",
    "there is none": "none exists, it is missing",
    "nobody is told": "no one is notified",
}
"""The word and what to write instead."""
ALLOWED = {
    'notified: bool = Field(default=False, validation_alias=AliasChoices("notified", "told"))': (
        "the name in alert states that older versions wrote"
    ),
}
"""A line that needs one of the words -> why."""

FOLDERS = (
    "nextbuy", "feature_repo", "generators", "training", "bento", "monitoring", "benchmarks",
)  # fmt: skip
FILES = sorted(
    [
        *(file for folder in FOLDERS for file in (PROJECT / folder).rglob("*.py")),
        *(PROJECT / "docs").rglob("*.md"),
        *PROJECT.glob("*.md"),
    ]
)
GAP = r"[\s#]+"  # a phrase may continue on the next line of a comment
# Letters alone bound a word: `told` is one in `not_told` too.
PATTERN = re.compile(
    r"(?<![a-z])(?:" + "|".join(word.replace(" ", GAP) for word in WORDS) + r")(?![a-z])",
    re.IGNORECASE,
)


def lines_with(text):
    """Each line that holds one of the words, with the word."""
    for match in PATTERN.finditer(text):
        start = text.rfind("\n", 0, match.start()) + 1
        line = text[start:].partition("\n")[0].strip()
        if line not in ALLOWED:
            yield f"{' '.join(match[0].split())}: {line}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PROJECT)))
def test_a_file_is_in_plain_english(file):
    assert not [*lines_with(file.read_text())]


@pytest.mark.parametrize("verb", [verb_name(verb) for verb in app.registered_commands])
def test_the_help_is_in_plain_english(verb):
    shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200", "TERM": "dumb"})
    assert not [*lines_with(shown.output)]


def test_the_words_would_be_found():
    text = "# it is\n# put up\n# with, and not_told\nWhoever\n"
    assert [line.partition(":")[0] for line in lines_with(text)] == [
        "put up # with", "told", "Whoever",
    ]  # fmt: skip
    assert not [*lines_with("amended, stolid, ripen, besides")]
