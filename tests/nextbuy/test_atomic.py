import os
from pathlib import Path

import pytest

from nextbuy.atomic import replacing, write_text


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "new folder" / "report.json"
    write_text(target, "old")
    with replacing(target) as temporary:
        temporary.write_text("half")
        assert target.read_text() == "old"
        assert list(target.parent.glob("[!.]*")) == [target]  # hidden from readers of the folder
    assert target.read_text() == "half"


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    target = tmp_path / "report.json"
    write_text(target, "old")

    def interrupted():
        with replacing(target) as temporary:
            temporary.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [
        ("report.json", "old")
    ]


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    target = tmp_path / "report.json"
    with replacing(target) as one, replacing(target) as other:
        one.write_text("one")
        other.write_text("other")
    assert target.read_text() == "one"


def test_what_is_durable_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    target, flushed = tmp_path / "registry.db", []
    flush = os.fsync

    def seen(descriptor):
        file = Path(f"/proc/self/fd/{descriptor}").resolve()
        flushed.append((file == tmp_path, target.exists()))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", seen)
    write_text(tmp_path / "cache.json", "{}")
    assert flushed == []
    write_text(target, "x", durable=True)
    assert flushed == [(False, False), (True, True)]  # the content, then the folder with the name
