"""A published table is one good version: after a crash, beside another writer, on any machine."""

import os
import signal
import subprocess
import sys
import textwrap

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextbuy.connection import duckdb_connection
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.versioned_table import (
    Manifest,
    file_digest,
    files,
    fingerprint,
    lock,
    manifest,
    new_version,
    require,
    staged_version,
)


@pytest.fixture
def table(tmp_path):
    return tmp_path / "data" / "events"


def write(table, days, inputs="i", info=None, rows=3, threads=2, keep=()):
    """Publish `rows` rows for each day, some of them kept from the version before."""
    source = ", ".join(f"(TIMESTAMPTZ '{day} 10:00:00Z')" for day in days)
    with (
        duckdb_connection(Settings(data=table.parent, threads=threads)) as connection,
        new_version(table, inputs, info) as version,
    ):
        for day in keep:
            version.keep(day)
        if days:
            connection.execute(
                f"""CREATE TABLE t AS
                SELECT md5(n::VARCHAR) AS event_id, noon + to_microseconds(n * 7919 % 1000) AS
                event_time FROM range({rows}) r(n), (VALUES {source}) v(noon)"""
            )
            version.write_days(connection, "t", "event_time", ["event_time", "event_id"])


def count(table):
    return duckdb.sql(f"SELECT count(*) FROM '{files(table)}'").fetchall()[0][0]


def test_a_table_is_there_once_it_is_published(table):
    assert manifest(table) is None
    with pytest.raises(NextbuyError, match=r"events is not there yet\. Make it with: nextbuy x"):
        require(table, "nextbuy x")
    write(table, ["2024-01-01", "2024-01-02"], info={"source": "shop"})
    found = require(table, "nextbuy x")
    assert (list(found.days), found.rows) == (["2024-01-01", "2024-01-02"], 6)
    assert found.info == {"source": "shop"}
    for day, digest in found.days.items():
        assert file_digest(table / f"day={day}" / "part-0.parquet") == digest
    assert count(table) == 6


def test_a_kept_day_is_the_same_file_and_outlives_the_version_before(table):
    write(table, ["2024-01-01", "2024-01-02"])
    first = table.resolve()
    inode = (table / "day=2024-01-01" / "part-0.parquet").stat().st_ino
    write(table, ["2024-01-03"], keep=["2024-01-01"])
    assert (table / "day=2024-01-01" / "part-0.parquet").stat().st_ino == inode
    assert list(manifest(table).days) == ["2024-01-01", "2024-01-03"]
    assert first.exists()  # for those who still read it
    write(table, [], keep=["2024-01-01"])
    assert not first.exists()
    assert count(table) == 3


def test_a_kept_day_is_not_read_again(table, monkeypatch):
    write(table, ["2024-01-01", "2024-01-02"])
    before, read = manifest(table).days, []

    def digest(path):
        read.append(path.parent.name)
        return file_digest(path)

    monkeypatch.setattr("nextbuy.versioned_table.file_digest", digest)
    write(table, ["2024-01-02"], keep=["2024-01-01"])
    assert read == ["day=2024-01-02"]
    assert manifest(table).days == before


def test_a_query_that_began_keeps_its_version(table):
    write(table, ["2024-01-01"])
    before = files(table)
    write(table, ["2024-01-02"], rows=5)
    assert duckdb.sql(f"SELECT count(*) FROM '{before}'").fetchall() == [(3,)]
    assert count(table) == 5


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_half_way_leaves_the_last_good_version(table, error):
    write(table, ["2024-01-01"])
    good = table.readlink()

    def half():
        with new_version(table, "other") as version:
            version.file("2024-01-02").write_bytes(b"half")
            raise error

    with pytest.raises(error):
        half()
    assert table.readlink() == good
    assert manifest(table).inputs == "i"
    assert [p.name for p in table.resolve().parent.glob("events-*")] == ["events-1"]


def test_a_staged_version_is_published_by_its_caller_or_removed(table):
    write(table, ["2024-01-01"])
    good = table.readlink()
    with staged_version(table, "other") as version:
        version.keep("2024-01-01")
        assert not version.is_published
    assert table.readlink() == good
    assert not version.folder.exists()
    with staged_version(table, "other", {"source": "shop"}) as version:
        version.keep("2024-01-01")
        version.info["newest"] = 1
        assert version.publish() == manifest(table)
        assert version.is_published
    assert manifest(table).inputs == "other"
    assert manifest(table).info == {"source": "shop", "newest": 1}
    assert count(table) == 3


def test_an_error_after_publishing_takes_nothing_back(table):
    def fail_after():
        with staged_version(table, "i") as version:
            pq.write_table(pa.table({"n": [1]}), version.file("2024-01-02"))
            version.publish()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after()
    assert count(table) == 1


def test_a_kill_half_way_leaves_the_last_good_version(table):
    write(table, ["2024-01-01"])
    code = f"""
        import os, signal
        from pathlib import Path
        from nextbuy.versioned_table import new_version
        with new_version(Path({str(table)!r}), "other") as version:
            version.file("2024-01-02").write_bytes(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (table.parent / ".versions" / "events-2").exists()
    assert (list(manifest(table).days), count(table)) == (["2024-01-01"], 3)
    # Neither its lock nor its leftovers are in the way of the next.
    write(table, ["2024-01-03"])
    assert list(manifest(table).days) == ["2024-01-03"]


def test_a_kill_before_the_swap_leaves_the_last_good_version(table):
    write(table, ["2024-01-01"])
    (table.parent / ".versions" / "events.swap").symlink_to("nowhere")
    assert count(table) == 3
    write(table, ["2024-01-02"])
    assert list(manifest(table).days) == ["2024-01-02"]


def test_two_writers_do_not_meet(table):
    write(table, ["2024-01-01"])
    with (
        new_version(table, "a") as version,
        pytest.raises(NextbuyError, match=r"events is being written by another run\. Wait for it"),
        new_version(table, "b"),
    ):
        pass
    assert manifest(table).inputs == "a"
    assert not version.folder.joinpath("day=2024-01-01").exists()


def test_a_writer_in_another_process_is_seen(table):
    code = f"""
        from pathlib import Path
        from nextbuy.errors import NextbuyError
        from nextbuy.versioned_table import new_version
        try:
            with new_version(Path({str(table)!r}), "b"):
                pass
        except NextbuyError:
            raise SystemExit(7)
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    with new_version(table, "a"):
        assert subprocess.run(run, check=False).returncode == 7
    assert subprocess.run(run, check=False).returncode == 0
    assert manifest(table).inputs == "b"


def test_tables_beside_each_other_do_not_sweep_each_other(table):
    other = table.with_name("events-late")
    write(table, ["2024-01-01"])
    write(other, ["2024-01-01"])
    for _ in range(3):
        write(table, ["2024-01-01"])
    assert count(other) == 3


def test_the_bytes_do_not_depend_on_threads(tmp_path):
    found = []
    for threads in (1, 2, 4):
        table = tmp_path / str(threads) / "events"
        write(table, ["2024-01-01", "2024-01-02"], rows=300_000, threads=threads)
        found.append(manifest(table))
    assert found[0].rows == 600_000
    assert found[1:] == [found[0]] * 2


def test_days_are_those_of_utc_and_the_order_is_as_asked(table):
    with (
        duckdb_connection(Settings(data=table.parent)) as connection,
        new_version(table, "i") as version,
    ):
        connection.execute(
            "CREATE TABLE t AS SELECT * FROM (VALUES "
            "('b', TIMESTAMPTZ '2024-01-01 23:30:00-01'), ('a', TIMESTAMPTZ '2024-01-01 23:59Z'), "
            "('c', TIMESTAMPTZ '2024-01-01 00:00Z')) v(event_id, event_time)"
        )
        version.write_days(connection, "t", "event_time", ["event_time", "event_id"])
    assert list(manifest(table).days) == ["2024-01-01", "2024-01-02"]
    day = duckdb.sql(f"SELECT event_id FROM '{table}/day=2024-01-01/*.parquet'").fetchall()
    assert day == [("c",), ("a",)]


def test_a_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), lock(tmp_path / "x.lock", "busy"):
        raise RuntimeError
    with lock(tmp_path / "x.lock", "busy"):
        assert os.path.exists(tmp_path / "x.lock")  # noqa: PTH110


def test_fingerprints_tell_parts_files_and_folders_apart(tmp_path):
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    code = tmp_path / "code"
    code.mkdir()
    (code / "x.py").write_text("1")
    before = fingerprint(code)
    (code / "note.txt").write_text("no code")
    assert fingerprint(code) == before
    (code / "x.py").write_text("2")
    assert fingerprint(code) != before


def test_what_a_version_was_made_from_is_not_part_of_its_content():
    one, two = (Manifest(inputs=i, days={"2024-01-01": "d"}, rows=1) for i in "ab")
    assert one.fingerprint == two.fingerprint
    assert one.fingerprint != one.model_copy(update={"info": {"x": 1}}).fingerprint
