"""Bad input: the message names file, row, column and remedy; nothing is lost, nothing half done."""

import json
import random
import re
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextbuy.errors import NextbuyError
from nextbuy.ingest.quarantine import REMEDIES
from nextbuy.ingest.row_rules import row_rules
from nextbuy.settings import Settings
from tests.nextbuy.small_log import (
    HEADER,
    event_rows,
    ingest,
    log,
    quarantined,
    reconciles,
    refused_rows,
    shop,
)

NOW = datetime(2024, 3, 10, 12, tzinfo=UTC)
GOOD = "ann,2024-03-01 10:00:00,pv,lamp,35.79"


@pytest.fixture
def settings(tmp_path):
    return Settings(data=tmp_path / "data")


@pytest.mark.parametrize(
    ("line", "reason", "column", "value"),
    [
        ("ann,yesterday,pv,lamp,1", "unparsable_time", "at", "yesterday"),
        ("ann,,pv,lamp,1", "missing_time", "at", None),
        ("ann,2024-03-12 00:00:00,pv,lamp,1", "time_in_future", "at", "2024-03-12 00:00:00"),
        ("ann,1970-01-01 00:00:00,pv,lamp,1", "time_too_old", "at", "1970-01-01 00:00:00"),
        (",2024-03-01 10:00:00,pv,lamp,1", "missing_user", "user", None),
        ("ann,2024-03-01 10:00:00,pv,,1", "missing_item", "sku", None),
        ("ann,2024-03-01 10:00:00,,lamp,1", "missing_event_type", "what", None),
        ("ann,2024-03-01 10:00:00,look,lamp,1", "unknown_event_type", "what", "look"),
        ("ann,2024-03-01 10:00:00,PV,lamp,1", "unknown_event_type", "what", "PV"),
        ("ann,2024-03-01 10:00:00,pv,lamp,-0.001", "negative_price", "price", "-0.001"),
        ("ann,2024-03-01 10:00:00,pv,lamp,$3", "unparsable_price", "price", "$3"),
        ("ann,2024-03-01 10:00:00,pv,lamp,nan", "unparsable_price", "price", "nan"),
        ("ann,2024-03-01 10:00:00,pv,lamp,1e300", "unparsable_price", "price", "1e300"),
        ("ann,2024-03-01 10:00:00,pv,lamp,1e10", "unparsable_price", "price", "1e10"),
        (f"{'ä' * 257},2024-03-01 10:00:00,pv,lamp,1", "text_too_long", "user", "ä" * 257),
        ("an\x00n,2024-03-01 10:00:00,pv,lamp,1", "control_character", "user", "an\x00n"),
        ("an\x7fn,2024-03-01 10:00:00,pv,lamp,1", "control_character", "user", "an\x7fn"),
        ("an\x85n,2024-03-01 10:00:00,pv,lamp,1", "control_character", "user", "an\x85n"),
        ("ann,2024-03-01 10:00:00,pv,la\x1bmp,1", "control_character", "sku", "la\x1bmp"),
        ("ann,2024-03-01 10:00:00,pv,la\u2028mp,1", "control_character", "sku", "la\u2028mp"),
        ("ann,2024-03-01 10:00:00,pv", "wrong_number_of_cells", None, None),
        ("ann,2024-03-01 10:00:00,pv,lamp,1,2", "wrong_number_of_cells", None, None),
        ("ann,2024-03-01 10:00:00,fav", "wrong_number_of_cells", None, None),
        ('"ann,2024-03-01 10:00:00,pv,lamp,1', "stray_quote", None, None),
        ('ann "x" ,2024-03-01 10:00:00,pv,lamp,1', "stray_quote", None, None),
    ],
)
def test_a_bad_row_is_kept_with_its_reason(tmp_path, settings, line, reason, column, value):
    path = log(tmp_path / "log.csv", GOOD, line, GOOD.replace("ann", "bob"))
    report = ingest([path], shop(), settings, now=NOW)

    assert report.quarantined == {reason: 1}
    refused = quarantined(report)[0]
    assert (refused["file"], refused["row"]) == (str(path), 3)
    assert (refused["reason"], refused["column"], refused["value"]) == (reason, column, value)
    cells = line.split(",")
    if column is None:
        assert refused["raw"] == {"line": line}
    else:
        assert list(refused["raw"].values()) == cells
        assert list(refused["raw"]) == HEADER.split(",")
    assert len(event_rows(settings)) == 2
    assert reconciles(report, settings)
    # The same row alone is too much: the message says where it is and what to do.
    where = f"{path}, row 3" + (f", column {column}" if column else "")
    with pytest.raises(NextbuyError, match=re.escape(where)) as caught:
        ingest([path], shop(limits={"max_bad_share": 0}), settings, now=NOW)
    assert REMEDIES[reason] in str(caught.value)
    assert str(report.quarantine) in str(caught.value)


def test_what_lies_just_within_the_bounds_is_taken(tmp_path, settings):
    lines = (
        "ann,2024-03-11 12:00:00,pv,lamp,0",
        "ann,2000-01-01 00:00:00,pv,lamp,9999999999.99",
        f"{'ä' * 256},2024-03-01 10:00:00,hello,,",
    )
    report = ingest([log(tmp_path / "log.csv", *lines)], shop(), settings, now=NOW)
    assert (report.published, report.quarantined) == (3, {})


def test_limits_can_be_set(tmp_path, settings):
    limits = {"not_before": "2024-03-01T00:00:00Z", "max_ahead": "PT1H", "max_bad_share": 1}
    lines = ("ann,2024-02-29 23:59:59,pv,lamp,1", "ann,2024-03-10 13:00:01,pv,lamp,1", GOOD)
    report = ingest([log(tmp_path / "l.csv", *lines)], shop(limits=limits), settings, now=NOW)
    assert report.quarantined == {"time_in_future": 1, "time_too_old": 1}


def test_what_a_clock_set_back_refused_comes_in_once_it_is_right(tmp_path, settings):
    path = log(tmp_path / "l.csv", GOOD, "ann,2024-03-09 10:00:00,pv,lamp,1")
    back = ingest([path], shop(), settings, now=datetime(2024, 3, 2, tzinfo=UTC))
    assert (back.published, back.quarantined) == (1, {"time_in_future": 1})
    right = ingest([path], shop(), settings, now=NOW)
    assert (right.published, right.already_present, right.quarantined) == (1, 1, {})


def test_every_rule_has_a_remedy():
    fields = dict.fromkeys(shop().fields, "x") | {"event_id": "x"}
    assert {rule.reason for rule in row_rules(shop(fields=fields))} <= set(REMEDIES)


def test_a_missing_id_of_the_log_s_own_is_refused(tmp_path, settings):
    fields = {"event_id": "id", **shop().fields}
    path = log(tmp_path / "l.csv", f"1,{GOOD}", f",{GOOD}", header=f"id,{HEADER}")
    report = ingest([path], shop(fields=fields), settings)
    assert (quarantined(report)[0]["reason"], report.published) == ("missing_event_id", 1)


def test_unknown_names_are_listed_with_the_way_to_map_them(tmp_path, settings):
    lines = [GOOD.replace("pv", name) for name in ("look", "look", "wish", "pv")]
    with pytest.raises(NextbuyError) as caught:
        ingest([log(tmp_path / "log.csv", *lines)], shop(limits={}), settings)
    message = str(caught.value)
    assert "Event names not known: 'look' (2), 'wish' (1)." in message
    assert "Map the name under event_types, or list it under ignored." in message
    assert "3 of 4 rows are refused" in message
    assert "raise limits.max_bad_share in the source file" in message
    assert not settings.events.exists()


def test_the_quarantine_of_a_refused_run_is_kept_and_replaced_by_the_next(tmp_path, settings):
    path = log(tmp_path / "log.csv", GOOD.replace("pv", "look"), GOOD)
    with pytest.raises(NextbuyError):
        ingest([path], shop(limits={}), settings)
    (folder,) = settings.quarantine.iterdir()
    assert [row["value"] for row in refused_rows(folder)] == ["look"]
    with pytest.raises(NextbuyError):
        ingest([path], shop(limits={}), settings)
    assert list(settings.quarantine.iterdir()) == [folder]
    ingest([path], shop(limits={}, ignored=["look"]), settings)
    assert not folder.exists()


def test_a_stray_quote_takes_its_own_line_alone(tmp_path, settings):
    """A CSV reader would take everything up to the next quote for one cell."""
    lines = [f"u{i},2024-03-01 10:00:00,pv,lamp,1" for i in range(5000)]
    lines[100] = '"u100,2024-03-01 10:00:00,pv,lamp,1'
    report = ingest([log(tmp_path / "log.csv", *lines)], shop(), settings)
    assert (report.read, report.published) == (5000, 4999)
    assert quarantined(report)[0]["row"] == 102


def test_bytes_that_are_no_text(tmp_path, settings):
    path = tmp_path / "log.csv"
    latin = "bob,2024-03-01 10:00:00,pv,Stühle,1".encode("latin-1")
    path.write_bytes(f"{HEADER}\n{GOOD}\n".encode() + latin + b"\n\0\0\n" + GOOD[1:].encode())
    report = ingest([path], shop(), settings)
    first, second = quarantined(report)
    assert (first["reason"], first["row"]) == ("not_utf8", 3)
    assert first["raw"] == {"line": r"bob,2024-03-01 10:00:00,pv,St\xfchle,1"}
    assert (second["reason"], second["row"]) == ("wrong_number_of_cells", 4)
    assert {row["user_id"] for row in event_rows(settings)} == {"ann", "nn"}


def test_rows_and_files_are_told_apart_across_chunks_and_files(tmp_path, settings, monkeypatch):
    monkeypatch.setattr("nextbuy.ingest.lines.CHUNK_BYTES", 64)
    lines = [GOOD.replace("ann", f"u{i}") for i in range(50)]
    one = log(tmp_path / "1.csv", *lines, "cut")
    two = log(tmp_path / "2.csv.gz", *lines[:7], "cut", *lines)
    report = ingest([two, one], shop(), settings)
    assert [(row["file"], row["row"]) for row in quarantined(report)] == [
        (str(one), 52),
        (str(two), 9),
    ]
    assert {name: counts.read for name, counts in report.files.items()} == {
        str(one): 51,
        str(two): 58,
    }
    assert (report.published, report.duplicates_in_batch) == (50, 57)


@pytest.mark.parametrize(
    "line", ["{", "[1]", "", '{"user": "ann"} x', "not json", '{"user": "bob", "user2"}']
)
def test_json_lines_that_are_no_objects(tmp_path, settings, line):
    record = dict(zip(HEADER.split(","), GOOD.split(","), strict=True))
    path = tmp_path / "log.jsonl"
    path.write_text(f"{json.dumps(record)}\n{line}\n{json.dumps(record | {'user': 'bob'})}")
    report = ingest([path], shop(format="jsonl"), settings)
    assert report.published == 2
    if line:
        (refused,) = quarantined(report)
        assert (refused["reason"], refused["row"]) == ("not_a_json_object", 2)
        assert refused["raw"] == {"line": line}


def test_a_bad_row_of_json_and_parquet_keeps_its_values(tmp_path, settings):
    record = dict(zip(HEADER.split(","), GOOD.split(","), strict=True)) | {"more": {"x": [1]}}
    lines = tmp_path / "log.jsonl"
    lines.write_text(f"{json.dumps(record)}\n{json.dumps(record | {'price': -1})}\n")
    refused = quarantined(ingest([lines], shop(format="jsonl"), settings))
    assert [(row["row"], row["raw"]) for row in refused] == [(2, record | {"price": -1})]

    table = pa.Table.from_pylist([record, record | {"price": "-1"}])
    pq.write_table(table, tmp_path / "log.parquet")
    report = ingest([tmp_path / "log.parquet"], shop(format="parquet"), settings, replace=True)
    (row,) = quarantined(report)
    assert (row["row"], row["column"], row["value"]) == (2, "price", "-1")
    assert row["raw"] == record | {"price": "-1"}


# -- what cannot be read at all ---------------------------------------------------------------


def refuses(settings, path, source, said):
    with pytest.raises(NextbuyError, match=said):
        ingest([path], source, settings)
    assert not settings.events.exists()


def test_no_such_file(tmp_path, settings):
    refuses(settings, tmp_path / "no.csv", shop(), r"There is no file .*no\.csv\. Check the path")
    refuses(settings, f"{tmp_path}/*.csv", shop(), r"There is no file .*\*\.csv\. Check the path")
    refuses(settings, tmp_path, shop(), r"is a folder\. Name its files, for example '.*/\*\.csv'")


def test_a_column_that_is_not_there(tmp_path, settings):
    path = log(tmp_path / "log.csv", GOOD, header="user,at,what,sku,amount")
    said = (
        r"log\.csv has no column 'price', which the source file names under fields\.price\. "
        r"Its columns are: user, at, what, sku, amount\. Correct fields\.price, or leave it out"
    )
    refuses(settings, path, shop(), said)
    parquet = tmp_path / "log.parquet"
    duckdb.sql(f"COPY (SELECT 1 AS user, 2 AS what) TO '{parquet}'")
    said = r"log\.parquet has no column 'at', .*fields\.event_time.*: user, what\."
    refuses(settings, parquet, shop(format="parquet"), said)
    lines = tmp_path / "log.jsonl"
    lines.write_text('{"user": 1}\n')
    said = r"log\.jsonl has no column 'at', .*fields\.event_time.*: user\."
    refuses(settings, lines, shop(format="jsonl"), said)


def test_an_expression_that_is_none(tmp_path, settings):
    fields = dict(shop().fields)
    path = log(tmp_path / "log.csv", GOOD)
    for sql in ("lower(usr)", "lower(user", "frobnicate(user)"):
        source = shop(fields=fields | {"user_id": {"sql": sql}})
        said = rf"fields\.user_id: DuckDB does not understand '{re.escape(sql)}'"
        refuses(settings, path, source, said)


def test_a_time_pattern_that_is_none(tmp_path, settings):
    path = log(tmp_path / "log.csv", GOOD)
    refuses(settings, path, shop(time={"format": "%Q"}), r"log\.csv cannot be read: .*%Q|specifier")


def noise():
    """Lines that pack badly, so that the header lies far from the damage."""
    pick = random.Random(7)
    return (pick.randbytes(50).hex() + GOOD for _ in range(5000))


def test_a_gzip_that_breaks_off(tmp_path, settings):
    path = log(tmp_path / "log.csv.gz", *noise())
    path.write_bytes(path.read_bytes()[:-2000])
    said = r"log\.csv\.gz cannot be read beyond line \d+: .*end-of-stream.*Fetch it again"
    refuses(settings, path, shop(), said)


def test_a_gzip_that_is_damaged(tmp_path, settings):
    path = log(tmp_path / "log.csv.gz", *noise())
    packed = bytearray(path.read_bytes())
    packed[-8] ^= 1  # the checksum
    path.write_bytes(packed)
    refuses(settings, path, shop(), r"log\.csv\.gz cannot be read beyond line \d+: CRC")


def test_files_that_do_not_belong_together(tmp_path, settings):
    log(tmp_path / "1.csv", GOOD)
    log(tmp_path / "2.csv", GOOD, header="at,user,what,sku,price")
    said = r"2\.csv has the columns at, user, .* but .*1\.csv has user, at, .*one after the other"
    refuses(settings, f"{tmp_path}/*.csv", shop(), said)
    duckdb.sql(f"COPY (SELECT 1 AS user) TO '{tmp_path}/1.parquet'")
    duckdb.sql(f"COPY (SELECT '1' AS user) TO '{tmp_path}/2.parquet'")
    said = r"2\.parquet has other columns or types than .*1\.parquet"
    refuses(settings, f"{tmp_path}/*.parquet", shop(format="parquet"), said)


def test_an_empty_day_among_others_counts_nothing_and_a_half_written_one_is_named(
    tmp_path, settings
):
    columns = {
        name: [value] for name, value in zip(HEADER.split(","), GOOD.split(","), strict=True)
    }
    day = pa.table(columns)
    for name, rows in (("1", day), ("2", day.slice(0, 0))):
        pq.write_table(rows, tmp_path / f"{name}.parquet")
    source = shop(format="parquet")
    report = ingest([f"{tmp_path}/*.parquet"], source, settings, now=NOW)
    assert reconciles(report, settings)
    assert [counts.read for counts in report.files.values()] == [1, 0]
    good = event_rows(settings)
    whole = (tmp_path / "1.parquet").read_bytes()
    (tmp_path / "3.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NextbuyError, match=r"3\.parquet cannot be read as Parquet"):
        ingest([f"{tmp_path}/*.parquet"], source, settings, now=NOW)
    assert event_rows(settings) == good


def test_files_that_are_something_else(tmp_path, settings):
    path = tmp_path / "log"
    path.write_bytes(b"")
    refuses(settings, path, shop(), r"log is empty: its first line should name the columns")
    refuses(settings, path, shop(format="parquet"), r"log cannot be read as Parquet")
    path.write_text(f"{HEADER}\n")
    refuses(settings, path, shop(), r"There is no event in .*log: 0 rows read.*right file")
    path.write_text("user,user,what\n")
    refuses(settings, path, shop(), r"names a column twice, and fields\.user_id means one")
    path.write_bytes(b"\xff\xfe" + HEADER.encode("utf-16-le"))
    refuses(settings, path, shop(), r"The first line of .*log cannot be read: .*UTF-8")
    path.write_text("user,at,what,sku,price,_row\n")
    by_row = shop(fields=shop().fields | {"item_id": {"sql": "sku || _row"}})
    refuses(settings, path, by_row, r"has a column '_row'.*the name is reserved")
    path.write_bytes(b"x" * (1 << 25))
    refuses(settings, path, shop(columns=["user", "at", "what", "sku", "price"]), r"16 MB.*text")
    path.write_text("[\n1\n]\n")
    refuses(settings, path, shop(format="jsonl"), r"log holds no JSON object in its first lines")


def test_a_log_of_ignored_events_alone_is_no_first_log(tmp_path, settings):
    ignored = log(tmp_path / "log.csv", GOOD.replace("pv", "fav"))
    said = r"There is no event in .*log\.csv: 1 rows read, 1 of them ignored"
    refuses(settings, ignored, shop(), said)
    ingest([log(tmp_path / "good.csv", GOOD)], shop(), settings)
    assert ingest([ignored], shop(), settings).ignored == {"fav": 1}
    with pytest.raises(NextbuyError, match="There is no event in"):
        ingest([ignored], shop(), settings, replace=True)
    assert len(event_rows(settings)) == 1
