"""From events to tables where the log is odd, and where it is real: nothing is lost on the way."""

import os
from pathlib import Path

import duckdb
import pytest
from histories import CONFIG, event
from test_increment import build, publish

from nextbuy.errors import NextbuyError
from nextbuy.ingest import ingest
from nextbuy.sessions import DAY, HOUR, SECOND, SessionConfig
from nextbuy.settings import PROJECT, Settings
from nextbuy.sources import load_source
from nextbuy.storage import files, manifest
from nextbuy.tables import build_features, build_sessions

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
    # Whoever reads the table finds its columns.
    assert one(data.features / "item", "SELECT count(n_views) FROM {}") == 0
    publish(data, [event("u1", 0, "view"), event("u1", 2 * DAY, "view")])
    build(data)
    assert manifest(data.features / "item").rows == 2  # what the first day left, and its going


def test_a_shopper_with_very_many_events_is_one_bot(tmp_path):
    data = Settings(data=tmp_path, threads=1)
    publish(data, [event("u1", i * SECOND, "view", f"i{i % 9}") for i in range(20_000)])
    build_sessions(data, CONFIG, lambda *_: None)
    build_features(data, lambda *_: None, ["session"])
    assert one(data.sessions, "SELECT count(*) FROM {} WHERE NOT is_bot") == (
        CONFIG.bot_burst_events - 1
    )
    assert one(data.features / "session", "SELECT n_events FROM {}") == 20_000


def test_tables_of_midnights_are_the_same_in_any_number_of_buckets(tmp_path, monkeypatch):
    data = Settings(data=tmp_path, threads=1)
    events = [
        event(f"u{i % 4}", i * 7 * HOUR, "view", f"i{i % 9}", category="c1") for i in range(60)
    ]
    publish(data, events)
    build(data)
    names = ["item", "category"]
    wanted = {name: manifest(data.features / name) for name in names}
    for events_in_one in (1, 13):
        monkeypatch.setattr("nextbuy.tables.BUCKET_EVENTS", events_in_one)
        for name in names:
            (data.features / name).unlink()
        build_features(data, lambda *_: None, names)
        assert {name: manifest(data.features / name) for name in names} == wanted


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
    source = load_source(PROJECT / "configs" / "sources" / f"{name}.yaml")
    report = ingest([SHARED / log], source, data, items=items and SHARED / items)
    assert report.read == (
        report.published
        + report.duplicates_in_batch
        + report.already_present
        + sum(report.ignored.values())
        + sum(report.quarantined.values())
    )
    build_sessions(data, SessionConfig(), lambda *_: None)
    build_features(data, lambda *_: None, ["session"])
    assert manifest(data.sessions).rows == report.published
    assert one(data.features / "session", "SELECT sum(n_events)::BIGINT FROM {}") == (
        report.published
    )
