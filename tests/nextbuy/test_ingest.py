"""From a log to published events: whole or not at all, once, in any order."""

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as trial
from hypothesis import strategies as st

from nextbuy.errors import NextbuyError
from nextbuy.events import EVENT_SCHEMA
from nextbuy.ingest.ingest import is_up_to_date, publish, stage_events
from nextbuy.settings import PROJECT, Settings
from nextbuy.versioned_table import manifest
from tests.nextbuy.small_log import (
    event_rows,
    ingest,
    log,
    published_bytes,
    quarantined,
    query,
    reconciles,
    shop,
)

DAY_1 = (
    "ann,2024-03-01 10:00:00,pv,lamp,35.79",
    "ann,2024-03-01 10:01:00,cart,lamp,35.79",
    "bob,2024-03-01 23:59:59.5,pv,rug,120",
)
DAY_2 = ("ann,2024-03-02 09:00:00,buy,lamp,30.00", "bob,2024-03-02 00:00:00,fav,rug,120")


@pytest.fixture
def settings(tmp_path):
    return Settings(data=tmp_path / "data")


def test_events_come_out_canonical(tmp_path, settings):
    report = ingest([log(tmp_path / "log.csv", *DAY_1, *DAY_2)], shop(), settings)

    rows = event_rows(settings)
    assert [(r["user_id"], r["event_type"], r["item_id"], r["price"]) for r in rows] == [
        ("ann", "view", "lamp", 3579),
        ("ann", "add_to_cart", "lamp", 3579),
        ("bob", "view", "rug", 12000),
        ("ann", "purchase", "lamp", 3000),
    ]
    assert rows[2]["event_time"] == datetime(2024, 3, 1, 23, 59, 59, 500_000, tzinfo=UTC)
    assert (report.read, report.published, report.ignored) == (5, 4, {"fav": 1})
    assert (report.first_event, report.last_event) == (
        rows[0]["event_time"],
        rows[-1]["event_time"],
    )
    assert report.days == 2
    assert report.quarantine is None
    assert reconciles(report, settings)


def test_the_table_has_the_canonical_schema_and_tells_what_it_provides(tmp_path, settings):
    ingest([log(tmp_path / "log.csv", *DAY_1)], shop(), settings)
    found = query(f"DESCRIBE SELECT * FROM '{settings.events}/*/*.parquet'")
    written = {r["column_name"]: r["column_type"] for r in found if r["column_name"] != "day"}
    assert list(written) == EVENT_SCHEMA.names
    assert written["event_time"] == "TIMESTAMP WITH TIME ZONE"
    assert {written["price"], written["discount"]} == {"BIGINT"}
    info = manifest(settings.events).info
    assert info["source"] == "shop"
    assert info["provides"] == ["add_to_cart", "login", "price", "purchase", "view"]


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_gzip_is_recognised_by_its_content(tmp_path, settings, ending):
    packed = log(tmp_path / f"log.{ending}", *DAY_1)
    renamed = packed.rename(tmp_path / "log.txt")
    assert ingest([renamed], shop(), settings).published == 3


def test_every_format_gives_the_same_events(tmp_path, settings):
    csv = log(tmp_path / "log.csv", *DAY_1, *DAY_2)
    names = ("user", "at", "what", "sku", "price")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in (*DAY_1, *DAY_2)]
    lines = tmp_path / "log.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parquet = tmp_path / "log.parquet"
    duckdb.sql(
        f'COPY (SELECT user, CAST("at" AS TIMESTAMP) AS "at", what, sku, CAST(price AS DOUBLE) AS '
        f"price FROM read_csv('{csv}', all_varchar = true)) TO '{parquet}'"
    )
    tabbed = tmp_path / "log.tsv"
    tabbed.write_text(csv.read_text().replace(",", "\t"))

    found = []
    for source, path in (
        (shop(), csv),
        (shop(format="jsonl"), lines),
        (shop(format="parquet"), parquet),
        (shop(delimiter="\t"), tabbed),
    ):
        ingest([path], source, settings, replace=True)
        found.append(event_rows(settings))
    assert len(found[0]) == 4
    assert found[1:] == [found[0]] * 3


def test_files_and_globs_are_read_once_each(tmp_path, settings):
    log(tmp_path / "a.csv", *DAY_1)
    log(tmp_path / "b.csv.gz", *DAY_2)
    report = ingest([tmp_path / "a.csv", f"{tmp_path}/*.csv*"], shop(), settings)
    assert {Path(name).name: counts.read for name, counts in report.files.items()} == {
        "a.csv": 3,
        "b.csv.gz": 2,
    }
    assert report.published == 4


def test_quotes_byte_order_mark_carriage_returns_and_blank_lines(tmp_path, settings):
    path = tmp_path / "log.csv"
    lines = [
        "user,at,what,sku,price",
        '"ann, the 1st",2024-03-01 10:00:00,pv,"a ""big"" lamp",1',
        "",
        'bob,2024-03-01 10:00:01,pv,"",1',
    ]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    report = ingest([path], shop(), settings)
    row = event_rows(settings)[0]
    assert (row["user_id"], row["item_id"]) == ("ann, the 1st", 'a "big" lamp')
    assert report.quarantined == {"missing_item": 1}
    assert quarantined(report)[0]["row"] == 4


def test_a_log_without_header_is_read_by_the_source_s_columns(tmp_path, settings):
    path = log(tmp_path / "log.csv", *DAY_1, header="")
    source = shop(columns=["user", "at", "what", "sku", "price"])
    assert ingest([path], source, settings).published == 3


def test_nested_columns_and_expressions(tmp_path, settings):
    path = tmp_path / "log.jsonl"
    record = {"who": {"id": 7}, "at": "2024-03-01T10:00:00+02:00", "what": "PV", "sku": "lamp"}
    path.write_text(json.dumps(record) + "\n")
    fields = {
        "user_id": "who.id",
        "event_time": "at",
        "event_type": {"sql": "lower(_line->>'$.what')"},
        "item_id": "sku",
        "brand": "made.by",
    }
    report = ingest([path], shop(format="jsonl", fields=fields), settings)
    row = event_rows(settings)[0]
    assert (row["user_id"], row["event_type"]) == ("7", "view")
    assert row["event_time"] == datetime(2024, 3, 1, 8, tzinfo=UTC)
    assert report.empty_columns == ("brand",)


@pytest.mark.parametrize("format", ["csv", "parquet"])
def test_a_log_may_call_its_columns_as_it_likes(tmp_path, settings, format):
    """Names that SQL or ingestion use themselves are no harm."""
    names = ["_kind", "select", 'the "time"', "_user_id", "_price"]
    fields = {
        "user_id": "_kind",
        "event_time": 'the "time"',
        "event_type": "select",
        "item_id": "_user_id",
        "price": "_price",
    }
    row = ["ann", "pv", "2024-03-01 10:00:00", "it's", "7"]
    path = tmp_path / f"it's.{format}"
    if format == "csv":
        log(path, ",".join(row), header='_kind,select,"the ""time""",_user_id,_price')
    else:
        pq.write_table(
            pa.table({name: [cell] for name, cell in zip(names, row, strict=True)}), path
        )
    report = ingest([path], shop(format=format, fields=fields), settings)
    assert report.published == 1
    (found,) = event_rows(settings)
    assert (found["user_id"], found["item_id"], found["price"]) == ("ann", "it's", 700)


@pytest.mark.parametrize(
    ("time", "text", "micros"),
    [
        ({"format": "unix_s"}, "1709287200", 0),
        ({"format": "unix_s"}, "1709287200.000001", 1),
        ({"format": "unix_ms"}, "1709287200123", 123_000),
        ({"format": "unix_us"}, "1709287200123456", 123_456),
        ({"format": "iso"}, "2024-03-01 10:00:00", 0),
        ({"format": "iso"}, "2024-03-01T10:00:00.25Z", 250_000),
        ({"format": "iso", "zone": "Asia/Shanghai"}, "2024-03-01 18:00:00", 0),
        ({"format": "iso", "zone": "Asia/Shanghai"}, "2024-03-01T10:00:00Z", 0),
        ({"format": "iso", "zone": "Asia/Shanghai"}, "2024-03-01T11:00:00+01:00", 0),
        ({"format": "%d.%m.%Y %H:%M", "zone": "Europe/Berlin"}, "01.03.2024 11:00", 0),
        ({"format": "%Y-%m-%d %H:%M:%S%z", "zone": "Europe/Berlin"}, "2024-03-01 10:00:00+0000", 0),
    ],
)
def test_times_become_utc(tmp_path, settings, time, text, micros):
    ingest([log(tmp_path / "log.csv", f"ann,{text},pv,lamp,")], shop(time=time), settings)
    moment = datetime(2024, 3, 1, 10, 0, 0, micros, tzinfo=UTC)
    assert [row["event_time"] for row in event_rows(settings)] == [moment]


@pytest.mark.parametrize(
    ("change", "text", "cents"),
    [
        ({}, "35.79", 3579),
        ({}, "1.005", 101),  # a float would say 100
        ({}, "1e2", 10_000),
        ({}, "0", 0),
        ({"zero_price_is_unknown": True}, "0.00", None),
        ({"money": "cents"}, "3579", 3579),
        ({}, "", None),
        ({}, "9999999999.99", 999_999_999_999),
    ],
)
def test_prices_become_exact_cents(tmp_path, settings, change, text, cents):
    ingest(
        [log(tmp_path / "log.csv", f"ann,2024-03-01 10:00:00,pv,lamp,{text}")],
        shop(**change),
        settings,
    )
    assert [row["price"] for row in event_rows(settings)] == [cents]


def test_ids_that_came_as_floats(tmp_path, settings):
    lines = (
        "266079.0,2024-03-01 10:00:00,pv,138778,1",
        "266079,2024-03-01 10:00:00,pv,138778,1",
        "v1.0,2024-03-01 10:00:00,pv,2.0,1",
    )
    source = shop(float_ids=["user_id"])
    report = ingest([log(tmp_path / "log.csv", *lines)], source, settings)
    assert {(r["user_id"], r["item_id"]) for r in event_rows(settings)} == {
        ("266079", "138778"),
        ("v1", "2.0"),
    }
    assert report.duplicates_in_batch == 1


def test_derived_ids_tell_apart_what_runs_together_and_nulls(tmp_path, settings):
    at = "2024-03-01 10:00:00"
    header = "user,at,what,sku,category,brand"
    fields = {
        "user_id": "user",
        "event_time": "at",
        "event_type": "what",
        "item_id": "sku",
        "category": "category",
        "brand": "brand",
    }
    lines = (
        f"a,{at},pv,i,x,",
        f"a,{at},pv,i,,x",
        f"a,{at},pv,ix,,",
        f"ai,{at},pv,x,,",
        f"a,{at},pv,i,-,",
        f"a,{at},pv,i,,",
    )
    path = log(tmp_path / "log.csv", *lines, header=header)
    report = ingest([path], shop(fields=fields), settings)
    ids = [row["event_id"] for row in event_rows(settings)]
    assert (report.duplicates_in_batch, len(set(ids))) == (0, 6)
    assert {len(event_id) for event_id in ids} == {32}


# -- once, and in any order -------------------------------------------------------------------


def test_a_second_run_changes_nothing(tmp_path, settings):
    path = log(tmp_path / "log.csv", *DAY_1, *DAY_2)
    ingest([path], shop(), settings)
    before, version = published_bytes(settings), settings.events.readlink()
    report = ingest([path], shop(), settings)
    assert (report.published, report.already_present, report.days) == (0, 4, 0)
    assert published_bytes(settings) == before
    assert settings.events.readlink() == version
    assert reconciles(report, settings)


def test_the_logs_published_last_are_known_without_reading_them(tmp_path, settings):
    one, two = log(tmp_path / "1.csv", *DAY_1), log(tmp_path / "2.csv", *DAY_2)
    assert not is_up_to_date([one], [shop()], settings)
    ingest([one], shop(), settings)
    assert is_up_to_date([one], [shop()], settings)
    assert is_up_to_date([one], [shop()], settings, replace=True)
    assert not is_up_to_date([one], [shop(money="cents")], settings)
    assert not is_up_to_date([one, two], [shop()], settings)
    ingest([two], shop(), settings)
    assert is_up_to_date([two], [shop()], settings)
    assert not is_up_to_date([two], [shop()], settings, replace=True)  # it would drop the first


def test_a_log_with_refused_rows_is_read_again(tmp_path, settings):
    path = log(tmp_path / "log.csv", *DAY_1, "dan,2094-03-01 12:00:00,pv,vase,5")
    ingest([path], shop(), settings)
    assert not is_up_to_date([path], [shop()], settings)  # by then that time may have come


def test_only_days_with_new_events_are_written(tmp_path, settings):
    ingest([log(tmp_path / "1.csv", *DAY_1, *DAY_2)], shop(), settings)
    kept = settings.events / "day=2024-03-01" / "part-0.parquet"
    inode = kept.stat().st_ino
    late = log(tmp_path / "2.csv", "cat,2024-03-02 12:00:00,pv,vase,5", *DAY_1)
    report = ingest([late], shop(), settings)
    assert (report.published, report.already_present, report.days) == (1, 3, 1)
    assert kept.stat().st_ino == inode
    assert len(event_rows(settings)) == 5


def test_replace_lets_the_log_stand_alone(tmp_path, settings):
    ingest([log(tmp_path / "1.csv", *DAY_1)], shop(), settings)
    report = ingest([log(tmp_path / "2.csv", *DAY_2)], shop(), settings, replace=True)
    assert (report.published, report.already_present) == (1, 0)
    assert [row["event_type"] for row in event_rows(settings)] == ["purchase"]


@trial(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_pieces_in_any_order_give_the_same_bytes(tmp_path_factory, data):
    line = st.builds(
        "{},2024-03-0{} 10:00:0{},{},{},{}".format,
        st.sampled_from(["ann", "bob"]),
        st.integers(1, 3),
        st.integers(0, 2),
        st.sampled_from(["pv", "cart", "buy", "fav", "oops"]),
        st.sampled_from(["lamp", "rug", ""]),
        st.sampled_from(["", "1.5", "-2", "9"]),
    )
    good = "ann,2024-03-01 09:00:00,pv,lamp,1"
    lines = [good, *data.draw(st.lists(line, max_size=30))]
    cut = data.draw(st.integers(0, len(lines)))
    shuffled = data.draw(st.permutations(lines))
    pieces = [[*shuffled[:cut], good], [good, *shuffled[cut:]]]  # a log without events is refused
    source = shop(limits={"max_bad_share": 1})

    folder = tmp_path_factory.mktemp("order")
    whole, parts = Settings(data=folder / "whole"), Settings(data=folder / "parts", threads=1)
    report = ingest([log(folder / "all.csv", *lines)], source, whole)
    assert reconciles(report, whole)
    counted = 0
    for i, piece in enumerate(pieces):
        counted += ingest([log(folder / f"{i}.csv", *piece)], source, parts).published
    assert published_bytes(parts) == published_bytes(whole)
    assert counted == report.published


def test_the_bytes_do_not_depend_on_threads_or_memory(tmp_path):
    pick = random.Random(7)
    lines = [
        f"u{pick.randrange(900)},2024-03-0{pick.randrange(1, 4)} 10:{pick.randrange(60):02}:00,"
        f"pv,i{pick.randrange(500)},{pick.randrange(1, 99)}"
        for _ in range(150_000)
    ]
    path = log(tmp_path / "log.csv", *lines)
    found = []
    for threads, memory in ((1, "4GB"), (2, "4GB"), (4, "200MB")):
        settings = Settings(data=tmp_path / str(threads), threads=threads, memory_limit=memory)
        assert ingest([path], shop(), settings).published > 140_000
        found.append(published_bytes(settings))
    assert found[1:] == [found[0]] * 2


def test_repeated_ids_of_the_log_s_own(tmp_path, settings):
    """The same event again is a repetition; another event under its id is refused."""
    header = "id,user,at,what,sku,price"
    fields = {"event_id": "id", **shop().fields}
    first = "e1,ann,2024-03-01 10:00:00,pv,lamp,1"
    other = "e1,bob,2024-03-01 11:00:00,pv,lamp,1"
    source = shop(fields=fields, limits={"max_bad_share": 1})
    report = ingest([log(tmp_path / "a.csv", other, first, first, header=header)], source, settings)
    assert (report.published, report.duplicates_in_batch) == (1, 1)
    assert report.quarantined == {"conflicting_event_id": 1}
    assert [row["user_id"] for row in event_rows(settings)] == ["ann"]

    again = log(tmp_path / "b.csv", first, other.replace("03-01", "03-09"), header=header)
    report = ingest([again], source, settings)
    # Of the two in the batch the first by time stays; it is published already.
    assert (report.published, report.already_present) == (0, 1)
    assert quarantined(report)[0]["row"] == 3
    only = ingest([log(tmp_path / "c.csv", other, header=header)], source, settings)
    refused = quarantined(only)[0]
    assert (refused["column"], refused["value"], refused["raw"]["user_id"]) == ("id", "e1", "bob")
    assert reconciles(only, settings)


# -- all or nothing ---------------------------------------------------------------------------


def test_new_events_alone_are_staged_and_can_be_kept_out(tmp_path, settings):
    ingest([log(tmp_path / "1.csv", *DAY_1)], shop(), settings)
    before = published_bytes(settings)
    path = log(tmp_path / "2.csv", *DAY_1, *DAY_2)
    staged_rows = []

    def refused_by_the_check() -> None:
        with stage_events([path], [shop()], settings) as staged:
            staged_rows.extend(query(f"SELECT * FROM '{staged.file}'"))
            raise NextbuyError("too many purchases")

    with pytest.raises(NextbuyError, match="too many purchases"):
        refused_by_the_check()
    assert [row["event_type"] for row in staged_rows] == ["purchase"]
    assert list(staged_rows[0]) == EVENT_SCHEMA.names
    assert published_bytes(settings) == before
    assert ingest([path], shop(), settings).published == 1


def test_a_log_without_new_events_stages_no_file(tmp_path, settings):
    path = log(tmp_path / "1.csv", *DAY_1)
    ingest([path], shop(), settings)
    before = published_bytes(settings)
    with stage_events([path], [shop()], settings) as staged:
        assert staged.file is None
        assert publish(staged).already_present == 3
    assert published_bytes(settings) == before


def test_too_many_bad_rows_leave_the_last_good_events(tmp_path, settings):
    ingest([log(tmp_path / "1.csv", *DAY_1)], shop(), settings)
    before = published_bytes(settings)
    bad = log(tmp_path / "2.csv", *DAY_2, "cat,2024-03-02 10:00:00,pv,lamp,-1")
    with pytest.raises(NextbuyError, match=r"1 of 3 rows are refused \(33\.33%; at most 1\.00%"):
        ingest([bad], shop(limits={}), settings)
    assert published_bytes(settings) == before
    assert ingest([bad], shop(limits={"max_bad_share": 0.4}), settings).published == 1


def test_killed_in_the_midst_of_it(tmp_path, settings):
    ingest([log(tmp_path / "1.csv", *DAY_1)], shop(), settings)
    before = published_bytes(settings)
    path = log(tmp_path / "2.csv", *DAY_2)
    code = f"""
        import os, signal
        from tests.nextbuy.small_log import ingest, shop
        from nextbuy.settings import Settings
        from nextbuy.versioned_table import Version
        written = Version.write_days
        def write_and_die(*arguments):
            written(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        Version.write_days = write_and_die
        ingest([{str(path)!r}], shop(), Settings())
    """
    killed = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=PROJECT,
        env={**os.environ, "NEXTBUY_DATA": str(settings.data)},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    assert (settings.data / "tmp" / "ingest" / "new.parquet").exists()
    assert published_bytes(settings) == before
    assert ingest([path], shop(), settings).published == 1
    assert not (settings.data / "tmp" / "ingest").exists()
    assert len(list((settings.data / ".versions").glob("events-*"))) == 2


def test_two_runs_at_once_do_not_mix(tmp_path, settings):
    path = log(tmp_path / "log.csv", *DAY_1)

    with stage_events([path], [shop()], settings) as staged:
        with pytest.raises(NextbuyError, match=r"Another run is ingesting.*try again"):
            ingest([path], shop(), settings)
        assert publish(staged).published == 3


def test_another_source_is_not_mixed_in(tmp_path, settings):
    path = log(tmp_path / "log.csv", *DAY_1)
    ingest([path], shop(), settings)
    with pytest.raises(NextbuyError, match=r"holds events of the source 'shop'; .*NEXTBUY_DATA"):
        ingest([path], shop(name="other"), settings)
    with pytest.raises(NextbuyError, match=r"mapping of 'shop' is not the one .* \(--replace\)"):
        ingest([path], shop(money="cents"), settings)
    assert ingest([path], shop(name="other"), settings, replace=True).published == 3


# -- item tables ------------------------------------------------------------------------------


def test_an_undated_item_table_fills_in_what_the_log_leaves_out(tmp_path, settings):
    items = log(tmp_path / "items.csv", "lamp,light,acme", "rug,,wool", header="sku,kind,maker")
    table = {"format": "csv", "key": "sku", "fields": {"category": "kind", "brand": "maker"}}
    path = log(tmp_path / "log.csv", *DAY_1)
    bare = ingest([path], shop(items=table), settings)
    ids = [row["event_id"] for row in event_rows(settings)]
    assert (bare.published, manifest(settings.events).info["provides"].count("brand")) == (3, 0)

    ingest([path], shop(items=table), settings, items=items, replace=True)
    assert [(r["category"], r["brand"]) for r in event_rows(settings)] == [
        ("light", "acme"),
        ("light", "acme"),
        (None, "wool"),
    ]
    assert [row["event_id"] for row in event_rows(settings)] == ids
    assert {"brand", "category"} < set(manifest(settings.events).info["provides"])


def test_a_dated_item_table_is_known_from_its_stamp_on(tmp_path, settings):
    items = log(
        tmp_path / "items.csv",
        "lamp,2024-03-01 10:00:30,light,20",
        "lamp,2024-03-01 09:00:00,decoration,10",
        "lamp,2024-03-03 00:00:00,antique,900",
        header="sku,since,kind,price",
    )
    table = {
        "format": "csv",
        "key": "sku",
        "stamp": "since",
        "fields": {"category": "kind", "price": "price"},
    }
    header = "user,at,what,sku,price"
    lines = (
        "ann,2024-03-01 08:00:00,pv,lamp,",
        "ann,2024-03-01 10:00:00,pv,lamp,",
        "ann,2024-03-01 10:00:30,pv,lamp,7",
        "ann,2024-03-01 11:00:00,hello,,",
    )
    path = log(tmp_path / "log.csv", *lines, header=header)
    ingest([path], shop(items=table), settings, items=items)
    assert [(r["category"], r["price"]) for r in event_rows(settings)] == [
        (None, None),
        ("decoration", 1000),
        ("light", 700),
        (None, None),
    ]


def test_an_item_table_with_a_useless_row_is_refused(tmp_path, settings):
    items = log(tmp_path / "items.csv", "lamp,light", ",rug", header="sku,kind")
    table = {"format": "csv", "key": "sku", "fields": {"category": "kind"}}
    path = log(tmp_path / "log.csv", *DAY_1)
    with pytest.raises(NextbuyError, match=r"items\.csv, row 3: no item.* items\.where"):
        ingest([path], shop(items=table), settings, items=items)
    with pytest.raises(NextbuyError, match=r"'shop' declares no item table, so .*items\.csv"):
        ingest([path], shop(), settings, items=items)


def test_progress_is_told(tmp_path, settings):
    told = []
    ingest([log(tmp_path / "log.csv", *DAY_1)], shop(), settings, progress=told.append)
    assert told == ["reading log.csv: 100%", "looking for duplicates", "publishing"]


@pytest.mark.parametrize("format", ["csv", "jsonl"])
def test_columns_that_differ_in_case_alone_are_told_apart(tmp_path, settings, format):
    names = ("User", "user", "at", "what", "sku")
    cells = ("no", "ann", "2024-03-01 10:00:00", "pv", "lamp")
    path = tmp_path / "log"
    if format == "csv":
        path.write_text(f"{','.join(names)}\n{','.join(cells)}\n")
    else:
        path.write_text(json.dumps(dict(zip(names, cells, strict=True))) + "\n")
    fields = {"user_id": "user", "event_time": "at", "event_type": "what", "item_id": "sku"}
    fields["category"] = "User"
    ingest([path], shop(format=format, fields=fields), settings)
    assert [(row["user_id"], row["category"]) for row in event_rows(settings)] == [("ann", "no")]
