"""From events to tables where the log is odd, and where it is real: nothing is lost on the way."""

import os
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st

from nextbuy.errors import NextbuyError
from nextbuy.features import TABLES
from nextbuy.ingest.source import load_sources
from nextbuy.settings import PROJECT, Settings
from nextbuy.shop import SessionConfig
from nextbuy.tables.build import stage_features
from nextbuy.times import DAY, HOUR, SECOND
from nextbuy.versioned_table import files, manifest
from tests.nextbuy.histories import CONFIG, event, histories
from tests.nextbuy.small_log import ingest
from tests.nextbuy.test_incremental import build, publish
from tests.tables import build_features, build_sessions

SHARED = Path(os.environ.get("NEXTBUY_SHARED_DATA", PROJECT.parent / "shared" / "data"))
LOGS = {
    "rees46": ("rees46_2019-10-01.csv.gz", None),
    "taobao": ("taobao_userbehavior.csv.gz", None),
    "jdata": ("jdata_action_*.csv.gz", "jdata_product.csv.gz"),
}


def one(table, query):
    return duckdb.sql(query.format(f"'{files(table)}'")).fetchall()[0][0]


def test_one_event_in_total(tmp_path):
    data = Settings(data=tmp_path, threads=1)
    publish(data, [event("u1", 0, "view")])
    build(data)
    rows = {name: manifest(data.features / name).rows for name in ("user", "session", "user_item")}
    assert rows == {"user": 1, "session": 1, "user_item": 1}
    assert manifest(data.labels).rows == 1
    assert manifest(data.features / "item").rows == 0  # no day is over yet
    # A reader of the table finds its columns.
    assert one(data.features / "item", "SELECT count(n_views) FROM {}") == 0
    publish(data, [event("u1", 0, "view"), event("u1", 2 * DAY, "view")])
    build(data)
    assert manifest(data.features / "item").rows == 2  # what the first day left, and its going


def test_a_shopper_with_very_many_events_is_one_bot(tmp_path):
    data = Settings(data=tmp_path, threads=1)
    publish(data, [event("u1", i * SECOND, "view", f"i{i % 9}") for i in range(20_000)])
    build_sessions(data, CONFIG)
    build_features(data, ["session"])
    assert one(data.sessions, "SELECT count(*) FROM {} WHERE NOT is_bot") == (
        CONFIG.bot_burst_events - 1
    )
    assert one(data.features / "session", "SELECT n_events FROM {}") == 20_000


@how(
    max_examples=10,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(histories(), st.integers(1, 13), st.integers(1, 9))
def test_tables_are_the_same_in_any_number_of_partitions(tmp_path_factory, events, partition, span):
    """Log-ins link visitors to shoppers, some of them in a row: no partition separates them."""
    data = Settings(data=tmp_path_factory.mktemp("partitions"), threads=1)
    publish(data, events)
    build(data)
    wanted = {table.name: manifest(data.features / table.name) for table in TABLES}
    for name in wanted:
        (data.features / name).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nextbuy.tables.partitions.PARTITION_EVENTS", partition)
        patch.setattr("nextbuy.tables.writer.SPAN_ROWS", span)
        build_features(data)
    assert {name: manifest(data.features / name) for name in wanted} == wanted


def test_a_visitor_of_a_visitor_is_in_their_partition(tmp_path, monkeypatch):
    """Ann was anonymous before she was Bob's guest: three ids, one person, whatever the hash."""
    data = Settings(data=tmp_path, threads=1)
    chains = [
        [
            event(f"guest{n}", 0, "view", "i1", source_session_id=f"s{n}"),
            event(f"ann{n}", HOUR, "view", "i2", source_session_id=f"t{n}"),
            event(f"bob{n}", 2 * HOUR, "login", None, source_session_id=f"t{n}"),
            event(f"ann{n}", 3 * HOUR, "login", None, source_session_id=f"s{n}"),
            event(f"ann{n}", 4 * HOUR, "view", "i3"),
            event(f"bob{n}", 5 * HOUR, "view", "i2"),
        ]
        for n in range(8)
    ]
    publish(data, [e for chain in chains for e in chain])
    build(data)
    linked = "SELECT max(n_sessions) FROM {} WHERE user_id LIKE '%s%%'"
    assert one(data.features / "user", linked % "ann") == 4  # hers, and the guest's
    assert one(data.features / "user", linked % "bob") == 5  # his, and hers before he logged in
    wanted = {table.name: manifest(data.features / table.name) for table in TABLES}
    for name in wanted:
        (data.features / name).unlink()
    monkeypatch.setattr("nextbuy.tables.partitions.PARTITION_EVENTS", 3)
    build_features(data)
    assert {name: manifest(data.features / name) for name in wanted} == wanted


def test_one_feature_table_is_staged_at_a_time(tmp_path):
    data = Settings(data=tmp_path, threads=1)
    publish(data, [event("u1", 0, "view"), event("u1", 2 * DAY, "view")])
    build_sessions(data, CONFIG)
    with stage_features(data, ["user", "session", "item"]) as tables:
        assert next(tables).publish().is_new
        session = next(tables)
        assert session.new_files
        folders = {f.name for f in (data.features / ".versions").glob("*-[0-9]*")}
        assert folders == {"user-1", "session-1"}
        next(tables)
        assert not session.version.folder.exists()  # it was not published in time
    assert [f.name for f in (data.features / ".versions").glob("*-[0-9]*")] == ["user-1"]
    assert manifest(data.features / "session") is None
    with stage_features(data, ["user", "session"]) as tables:
        assert [table.publish().is_new for table in tables] == [False, True]


def test_a_half_written_day_is_named_and_the_last_good_tables_stay(tmp_path):
    data = Settings(data=tmp_path, threads=1)
    first = [event("u1", 0, "view"), event("u2", DAY, "view")]
    publish(data, first)
    build(data)
    good = {table: manifest(table) for table in (data.sessions, data.labels)}
    publish(data, [*first, event("u1", 2 * DAY, "view")])
    broken = data.events / "day=2024-01-03" / "part-0.parquet"
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(NextbuyError, match=r"day=2024-01-03/part-0\.parquet.*remove that table"):
        build(data)
    assert good == {table: manifest(table) for table in good}
    publish(data, [*first, event("u1", 2 * DAY, "view")])
    build(data)
    assert manifest(data.sessions).rows == 3


@pytest.mark.parametrize("name", LOGS)
def test_a_real_log_reconciles_down_to_the_sessions(name, tmp_path):
    log, items = LOGS[name]
    if not list(SHARED.glob(log)):
        pytest.skip(f"not in {SHARED}: {log}")
    data = Settings(data=tmp_path)
    (source,) = load_sources(PROJECT / "configs" / "sources" / f"{name}.yaml")
    report = ingest([SHARED / log], source, data, items=items and SHARED / items)
    assert report.read == (
        report.published
        + report.duplicates_in_batch
        + report.already_present
        + sum(report.ignored.values())
        + sum(report.quarantined.values())
    )
    build_sessions(data, SessionConfig())
    build_features(data, ["session"])
    assert manifest(data.sessions).rows == report.published
    assert one(data.features / "session", "SELECT sum(n_events)::BIGINT FROM {}") == (
        report.published
    )
