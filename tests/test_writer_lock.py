"""One writer at a time in a data folder; the verbs that write are those that the page names."""

import os
import re
import subprocess
import sys
from contextlib import contextmanager

import pytest
from typer.testing import CliRunner

from nextbuy.cli import app
from nextbuy.cli.app import verb_name
from nextbuy.errors import NextbuyError
from nextbuy.settings import PROJECT, Settings
from nextbuy.writer_lock import sole_writer
from training.config import SplitConfig
from training.dataset import build_dataset

WRITERS = {
    "simulate": [],
    "ingest": ["log.csv", "--source", "rees46"],
    "sessionize": [],
    "features": [],
    "apply": [],
    "materialize": [],
    "train": [],
    "promote": [],
    "rollback": [],
    "daily": [],
    "merge-live": [],
    "restore": ["archive.tar.gz"],
    "forget": ["u1", "--yes"],
}
"""Verb -> arguments it needs."""
DATASET = {"evaluate", "backtest", "tune", "uplift"}
"""They write no table, but need the lock while they build a training set."""
READERS = {"check", "monitor", "dashboard", "serve", "predict", "reload", "score", "replay",
    "parity", "backup", "map"}  # fmt: skip
STAGES = {"demo", "absorb", "live"}
"""They run other verbs, each with its own lock."""
HOLDER = """
import sys
from nextbuy.settings import Settings
from nextbuy.writer_lock import sole_writer
with sole_writer(Settings(data=sys.argv[1]), "nextbuy daily"):
    print("in", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held(settings):
    """Another process writes."""
    command = [sys.executable, "-c", HOLDER, str(settings.data)]
    with subprocess.Popen(
        command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "in\n"
        try:
            yield other
        finally:
            other.kill()


@pytest.fixture
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path))
    return Settings()


def test_each_verb_is_one_that_writes_or_one_that_does_not():
    verbs = {verb_name(verb) for verb in app.registered_commands}
    assert verbs == {*WRITERS, *DATASET, *READERS, *STAGES}


def test_the_page_names_those_that_write():
    page = (PROJECT / "docs" / "operating.md").read_text()
    paragraph = page.split("## One writer at a time")[1].split("\n## ")[0]
    sentence = paragraph.split("hold it:")[1].split(".")[0]
    assert set(re.findall(r"`([a-z-]+)`", sentence)) == {*WRITERS, *DATASET}


@pytest.mark.parametrize("verb", WRITERS)
def test_a_second_writer_is_refused_and_learns_whom_it_waits_for(verb, settings):
    with held(settings) as other:
        result = CliRunner().invoke(app, [verb, *WRITERS[verb]])
    assert isinstance(result.exception, NextbuyError)
    assert f"nextbuy daily (process {other.pid}, since " in str(result.exception)
    assert {file.name for file in settings.data.iterdir()} - {"tmp"} == {"writer.lock"}


def test_a_training_set_is_not_built_from_tables_that_change(settings):
    with held(settings), pytest.raises(NextbuyError, match="nextbuy daily"):
        build_dataset(settings, SplitConfig())


@pytest.mark.parametrize("verb", ["check", "parity", "backup"])
def test_one_that_only_reads_is_not_stopped(verb, settings):
    with held(settings):
        result = CliRunner().invoke(app, [verb, *(["x.tar.gz"] if verb == "backup" else [])])
    assert "nextbuy daily" not in str(result.exception)


def test_a_verb_inside_another_goes_on(settings):
    with sole_writer(settings, "nextbuy daily"):
        with sole_writer(settings, "nextbuy sessionize"):
            pass
        with sole_writer(settings.model_copy(update={"data": settings.data / "x"}), "other"):
            pass
        text = (settings.data / "writer.lock").read_text()
        assert text.startswith(f"nextbuy daily (process {os.getpid()}, since 20")


def test_the_lock_ends_with_its_process_and_its_block(settings):
    with held(settings):
        pass
    for _ in range(2):
        with pytest.raises(RuntimeError), sole_writer(settings, "one that fails"):
            raise RuntimeError
    with held(settings):
        pass


def test_a_forked_child_that_lives_on_does_not_keep_it(settings):
    read, write = os.pipe()
    with sole_writer(settings, "nextbuy features"):
        child = os.fork()
        if not child:
            os.read(read, 1)
            os._exit(0)
    try:
        with held(settings):
            pass
    finally:
        os.write(write, b".")
        os.waitpid(child, 0)


def test_a_writer_may_wait_for_the_other(settings, monkeypatch):
    monkeypatch.setenv("NEXTBUY_WRITER_WAIT", "PT60S")
    with held(settings) as other:
        waiting = subprocess.Popen(
            [sys.executable, "-c", HOLDER, str(settings.data)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(2)
        other.kill()
        assert waiting.stdout.readline() == "in\n"
        waiting.communicate("\n", timeout=60)
