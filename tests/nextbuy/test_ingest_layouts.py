"""What logs of others look like: strange columns, lists in cells, several files, odd ids and zones.

Expected values are what the text of the log says, read by hand.
"""

import csv
import io
import json
import random
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextbuy.errors import NextbuyError
from nextbuy.ingest.ingest import publish, stage_events
from nextbuy.ingest.source import load_sources
from nextbuy.settings import Settings
from tests.nextbuy.small_log import (
    event_rows,
    ingest,
    log,
    quarantined,
    reconciles,
    refused_rows,
    shop,
)

AT = "2024-03-01 10:00:00"
FIELDS = {"user_id": "user", "event_time": "at", "event_type": "what", "item_id": "sku"}


@pytest.fixture
def settings(tmp_path):
    return Settings(data=tmp_path / "data")


def users(settings):
    return [row["user_id"] for row in event_rows(settings)]


def write(path, format, names, *rows):
    """A log of text cells in one of the formats."""
    if format == "csv":
        quoted = [",".join('"' + c.replace('"', '""') + '"' for c in row) for row in (names, *rows)]
        path.write_text("\n".join(quoted) + "\n")
    elif format == "jsonl":
        lines = [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
        path.write_text("\n".join(lines) + "\n")
    else:
        columns = [pa.array(column) for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(columns, names=list(names)), path)
    return path


# -- names of columns -------------------------------------------------------------------------

NAMES = [
    ["", "user", "at", "what", "sku"],
    ["User", "user", "at", "what", "sku"],
    ["USER ", "user", "at", "what", "sku"],
    ['a "quoted" one', "user", "at", "what", "sku"],
    ["user.id", "user", "at", "what", "sku"],
    ["_row", "user", "at", "what", "sku"],
    ["$.user", "user", "at", "what", "sku"],
    ["a/b~c", "user", "at", "what", "sku"],
]


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("names", NAMES, ids=[names[0] or "empty" for names in NAMES])
def test_a_column_is_reached_whatever_it_is_called(tmp_path, settings, format, names):
    path = write(tmp_path / "log", format, names, ["other", "ann", AT, "pv", "lamp"])
    fields = FIELDS | ({"brand": names[0]} if names[0] else {})
    ingest([path], shop(format=format, fields=fields), settings)
    (row,) = event_rows(settings)
    assert row["user_id"] == "ann"
    assert row["brand"] == ("other" if names[0] else None)


def test_the_one_name_that_parquet_cannot_have_is_told(tmp_path, settings):
    names = ["file_row_number", "user", "at", "what", "sku"]
    path = write(tmp_path / "log", "parquet", names, ["7", "ann", AT, "pv", "lamp"])
    with pytest.raises(NextbuyError, match=r"'file_row_number'.*Rename the column"):
        ingest([path], shop(format="parquet", fields=FIELDS), settings)


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_twins_by_case_are_told_apart_beside_expressions_too(tmp_path, settings, format):
    names = ["Price", "price", "user", "at", "what", "sku"]
    path = write(tmp_path / "log", format, names, ["99.00", "12.50", "ann", AT, "pv", "lamp"])
    fields = FIELDS | {"price": "price", "discount": "Price", "user_id": {"sql": "upper(user)"}}
    ingest([path], shop(format=format, fields=fields), settings)
    (row,) = event_rows(settings)
    assert (row["user_id"], row["price"], row["discount"]) == ("ANN", 1250, 9900)
    fields["price"] = {"sql": "PRICE"}
    with pytest.raises(NextbuyError, match=r"Price, price.*cannot tell apart"):
        ingest([path], shop(format=format, fields=fields), settings, replace=True)


def test_a_name_that_stands_twice_matters_only_where_it_is_meant(tmp_path, settings):
    path = log(tmp_path / "log.csv", f"ann,{AT},pv,lamp,x,y", header="user,at,what,sku,note,note")
    assert ingest([path], shop(fields=FIELDS), settings).published == 1
    with pytest.raises(NextbuyError, match=r"names a column twice, and fields\.brand means one"):
        ingest([path], shop(fields=FIELDS | {"brand": "note"}), settings, replace=True)


def test_a_log_of_a_thousand_columns(tmp_path, settings):
    names = [*(f"c{i}" for i in range(1000)), "user", "at", "what", "sku"]
    cells = [*("" for _ in range(1000)), "ann", AT, "pv", "lamp"]
    path = log(tmp_path / "log.csv", ",".join(cells), header=",".join(names))
    fields = FIELDS | {"brand": {"sql": "coalesce(c7, 'none')"}}
    ingest([path], shop(fields=fields), settings)
    assert [(row["user_id"], row["brand"]) for row in event_rows(settings)] == [("ann", "none")]


def test_keys_with_dots_flat_and_nested(tmp_path, settings):
    records = [
        {"user.id": "ann", "at": AT, "what": "pv", "sku": "lamp", "a": {"b.c": {"d": 1.5}}},
        {"user.id": "bob", "at": AT, "what": "pv", "sku": "lamp", "a": {"b.c": {"d": 2}}},
    ]
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    fields = FIELDS | {"user_id": "user.id", "price": "a.b.c.d"}
    ingest([path], shop(format="jsonl", fields=fields), settings)
    rows = {row["user_id"]: row["price"] for row in event_rows(settings)}
    assert rows == {"ann": 150, "bob": 200}


def test_a_field_that_a_struct_does_not_have_is_named(tmp_path, settings):
    struct = pa.array([{"id": "ann"}])
    table = pa.table({"who": struct, "at": [AT], "what": ["pv"], "sku": ["lamp"]})
    pq.write_table(table, tmp_path / "log.parquet")
    fields = FIELDS | {"user_id": "who.uid"}
    with pytest.raises(NextbuyError, match=r"no column 'who\.uid'.*fields\.user_id.*who, at, what"):
        ingest([tmp_path / "log.parquet"], shop(format="parquet", fields=fields), settings)
    fields["user_id"] = "who.id"
    ingest([tmp_path / "log.parquet"], shop(format="parquet", fields=fields), settings)
    assert users(settings) == ["ann"]


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_an_expression_that_fails_on_a_row_names_it(tmp_path, settings, format):
    rows = [[f"u{i}", AT, "pv", str(i)] for i in range(5)]
    rows[3][3] = "three"
    path = write(tmp_path / "log", format, ["user", "at", "what", "sku"], *rows)
    fields = FIELDS | {"item_id": {"sql": "CAST(sku AS INTEGER) + 1"}}
    row = 5 if format == "csv" else 4
    with pytest.raises(NextbuyError, match=rf"log, row {row}: fields\.item_id cannot .*'three'"):
        ingest([path], shop(format=format, fields=fields), settings)


# -- quoted line breaks -----------------------------------------------------------------------


def test_a_quoted_cell_may_hold_line_breaks(tmp_path, settings):
    lines = (
        f'ann,{AT},pv,lamp,"by courier\n\n""fragile"",\r\nthank you"',
        f"bob,{AT},pv,lamp,",
        f'cat,{AT},pv,"la\nmp","x\ny"',
    )
    path = log(tmp_path / "log.csv", *lines, header="user,at,what,sku,note")
    fields = FIELDS | {
        "item_id": {"sql": "replace(sku, chr(10), '/')"},  # an id holds no line break
        "brand": {"sql": "replace(note, chr(10), '/')"},
    }
    report = ingest([path], shop(fields=fields), settings)
    assert (report.read, report.published) == (3, 3)
    rows = {row["user_id"]: (row["item_id"], row["brand"]) for row in event_rows(settings)}
    assert rows["ann"] == ("lamp", 'by courier//"fragile",/thank you')
    assert rows["cat"] == ("la/mp", "x/y")


def test_a_stray_quote_does_not_swallow_good_rows(tmp_path, settings):
    """Two stray quotes with good rows between would be one record to a CSV reader."""
    lines = (f'ann,{AT},pv,"lamp', f"bob,{AT},pv,lamp", f"cat,{AT},pv,lamp", f'dan,{AT},pv,lamp"')
    path = log(tmp_path / "log.csv", *lines, header="user,at,what,sku")
    report = ingest([path], shop(fields=FIELDS), settings)
    assert users(settings) == ["bob", "cat"]
    assert [row["row"] for row in quarantined(report)] == [2, 5]


def test_records_of_several_lines_are_whole_across_chunks(tmp_path, settings, monkeypatch):
    """Against Python's csv module, for random texts and any size of a chunk."""
    dice = random.Random(4)
    notes = ["".join(dice.choices('ab,"\n ', k=dice.randint(0, 12))) for _ in range(300)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["user", "at", "what", "sku", "note"])
    writer.writerows([f"u{i:03}", AT, "pv", "lamp", note] for i, note in enumerate(notes))
    path = tmp_path / "log.csv"
    path.write_text(text.getvalue())
    for size in (64, 1000, 1 << 23):
        monkeypatch.setattr("nextbuy.ingest.lines.CHUNK_BYTES", size)
        fields = FIELDS | {"brand": {"sql": "replace(note, chr(10), '/')"}}
        report = ingest([path], shop(fields=fields), settings, replace=True)
        assert report.published == 300, size
        rows = {row["user_id"]: row["brand"] for row in event_rows(settings)}
        assert rows == {f"u{i:03}": note.replace("\n", "/") or None for i, note in enumerate(notes)}


# -- a list in a row --------------------------------------------------------------------------


def order(user, *skus):
    return {"user": user, "at": AT, "what": "buy", "id": f"o-{user}", "lines": [*skus]}


@pytest.mark.parametrize("format", ["csv", "jsonl", "parquet"])
def test_every_format_can_have_a_list_in_a_row(tmp_path, settings, format):
    """An order has a list, a view names its item beside it; the order's id is one for its lines."""
    orders = [order("ann", {"sku": "lamp"}, {"sku": "rug"}), order("bob", {"sku": "lamp"})]
    view = {"user": "cat", "at": AT, "what": "pv", "id": "v1", "sku": "bed"}
    path = tmp_path / "log"
    if format == "jsonl":
        path.write_text("\n".join(map(json.dumps, [*orders, view])) + "\n")
    elif format == "parquet":
        table = pa.Table.from_pylist([row | {"sku": row.get("sku")} for row in [*orders, view]])
        pq.write_table(table, path)
    else:
        names = ["user", "at", "what", "id", "lines", "sku"]
        cells = [
            [row["user"], row["at"], row["what"], row["id"], json.dumps(row["lines"]), ""]
            for row in orders
        ]
        write(path, "csv", names, *cells, ["cat", AT, "pv", "v1", "", "bed"])
    fields = FIELDS | {"event_id": "id", "item_id": {"sql": 'coalesce("lines.sku", sku)'}}
    source = shop(format=format, explode="lines", fields=fields)
    report = ingest([path], source, settings)
    assert (report.read, report.published) == (4, 4)
    rows = sorted((row["event_id"], row["user_id"], row["item_id"]) for row in event_rows(settings))
    assert rows == [
        ("o-ann", "ann", "lamp"),
        ("o-ann#2", "ann", "rug"),
        ("o-bob", "bob", "lamp"),
        ("v1", "cat", "bed"),
    ]
    assert ingest([path], source, settings).already_present == 4


@pytest.mark.parametrize("cell", ['{"sku": "lamp"}', "lamp", "7"])
def test_a_cell_that_should_hold_a_list_and_does_not_is_refused(tmp_path, settings, cell):
    names = ["user", "at", "what", "lines"]
    path = write(tmp_path / "log", "csv", names, ["ann", AT, "buy", cell], ["bob", AT, "buy", "[]"])
    source = shop(
        explode="lines", fields=FIELDS | {"item_id": "lines.sku"}, limits={"max_bad_share": 1}
    )
    with pytest.raises(NextbuyError, match="There is no event"):
        ingest([path], source, settings)
    (folder,) = settings.quarantine.iterdir()
    assert [row["reason"] for row in refused_rows(folder)] == ["not_a_list", "missing_item"]


# -- several logs of one shop -----------------------------------------------------------------

YOO = """
name: yoo
format: csv
inputs:
  clicks:
    files: "*clicks*"
    columns: [s, ts, item, cat]
    fields:
      {user_id: s, event_time: ts, event_type: {sql: "'click'"}, item_id: item, category: cat}
  buys:
    files: "*buys*"
    columns: [s, ts, item, price, qty]
    fields:
      {user_id: s, event_time: ts, event_type: {sql: "'buy'"}, item_id: item, price: price}
event_types: {click: view, buy: purchase}
"""


def test_one_source_reads_logs_of_different_layout(tmp_path, settings):
    (tmp_path / "yoo.yaml").write_text(YOO)
    clicks = log(tmp_path / "clicks.dat", "s1,2014-04-07T10:51:09.277Z,501,S", header="")
    buys = log(tmp_path / "buys.dat", "s1,2014-04-07T10:59:00.000Z,501,12462,1", header="")
    sources = load_sources(tmp_path / "yoo.yaml")
    with stage_events([clicks, buys], sources, settings) as staged:
        report = publish(staged)
    assert reconciles(report, settings)
    rows = [
        (r["event_type"], r["item_id"], r["category"], r["price"]) for r in event_rows(settings)
    ]
    assert rows == [("view", "501", "S", None), ("purchase", "501", None, 1246200)]
    with (
        pytest.raises(NextbuyError, match=r"other\.dat is none of the inputs of 'yoo'"),
        stage_events([log(tmp_path / "other.dat", "x", header="")], sources, settings),
    ):
        pass


def test_a_second_layout_is_another_log_and_a_changed_mapping_is_not(tmp_path, settings):
    clicks = log(tmp_path / "clicks.csv", f"ann,{AT},pv,lamp", header="user,at,what,sku")
    buys = log(tmp_path / "buys.csv", f"ann,{AT},lamp,9", header="who,on,sku,price")
    ingest([clicks], shop(fields=FIELDS), settings)
    fields = {
        "user_id": "who",
        "event_time": "on",
        "event_type": {"sql": "'buy'"},
        "item_id": "sku",
    }
    ingest([buys], shop(fields=fields), settings)
    assert len(event_rows(settings)) == 2
    with pytest.raises(NextbuyError, match="The mapping of 'shop' is not the one"):
        ingest([clicks], shop(fields=FIELDS | {"user_id": {"sql": "upper(user)"}}), settings)


# -- ids that are none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "none", ["null", "NaN", " None ", "undefined", "\\N", "(not set)", " ", "0"]
)
def test_a_placeholder_is_no_shopper_and_no_item(tmp_path, settings, none):
    lines = (f"{none},{AT},pv,lamp,", f"ann,{AT},pv,{none},", f"ann,{AT},pv,lamp,{none}")
    path = log(tmp_path / "log.csv", *lines, header="user,at,what,sku,sid")
    source = shop(fields=FIELDS | {"source_session_id": "sid"}, limits={"max_bad_share": 1})
    report = ingest([path], source, settings)
    assert report.quarantined == {"placeholder_user": 1, "placeholder_item": 1}
    assert [row["source_session_id"] for row in event_rows(settings)] == [None]
    assert report.no_session == {none: 1}
    assert "stands for none" in str(report)


def test_a_shop_may_have_an_item_that_is_called_like_a_placeholder(tmp_path, settings):
    path = log(tmp_path / "log.csv", f"ann,{AT},pv,0", header="user,at,what,sku")
    ingest([path], shop(fields=FIELDS, placeholders=["guest"]), settings)
    assert [row["item_id"] for row in event_rows(settings)] == ["0"]


@pytest.mark.parametrize(
    "user",
    ["1.5159662235090893e+18", "1.5E+18", "1.5159662235090893E18", "9007199254740994.0"],
)
@pytest.mark.parametrize("float_ids", [[], ["user_id"]])
def test_an_id_that_lost_digits_in_a_double_is_refused(tmp_path, settings, user, float_ids):
    lines = (f"{user},{AT},pv,lamp", f"9007199254740991.0,{AT},pv,lamp", f"5e10,{AT},pv,lamp")
    path = log(tmp_path / "log.csv", *lines, header="user,at,what,sku")
    report = ingest([path], shop(fields=FIELDS, float_ids=float_ids), settings)
    assert report.quarantined == {"imprecise_id": 1}
    known = "9007199254740991" if float_ids else "9007199254740991.0"
    assert users(settings) == ["5e10", known] or set(users(settings)) == {"5e10", known}


# -- zones ------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
@pytest.mark.parametrize(
    ("text", "hour"),
    [
        ("2024-07-01 12:00:00 GMT", 12),
        ("2024-07-01 12:00:00 EST", 17),
        ("2024-07-01 12:00:00 CET", 11),  # an hour ahead, in summer too
        ("2024-07-01 12:00:00 CEST", 10),
        ("2024-07-01 12:00:00 Europe/Berlin", 10),
        ("2024-07-01 12:00:00 America/New_York", 16),
        ("2024-07-01 12:00:00 +0500", 7),
        ("2024-07-01T12:00:00+05", 7),
        ("2024-07-01 12:00 +05:00", 7),
        ("2024-07-01 12:00:00.000 -03:00", 15),
        ("2024-07-01 12:00:00UTC", 12),
    ],
)
def test_a_zone_in_the_text_is_read_as_what_it_says(tmp_path, settings, zone, text, hour):
    path = log(tmp_path / "log.csv", f"ann,{text},pv,lamp", header="user,at,what,sku")
    ingest([path], shop(fields=FIELDS, time={"zone": zone}), settings)
    moment = datetime(2024, 7, 1, hour, tzinfo=UTC)
    assert [row["event_time"] for row in event_rows(settings)] == [moment]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
@pytest.mark.parametrize("text", ["IST", "CST", "BST", "PM", "Mars/Base", "GMT+2", "infinity"])
def test_a_zone_that_says_nothing_sure_is_refused(tmp_path, settings, zone, text):
    lines = (f"ann,2024-07-01 12:00:00 {text},pv,lamp", f"bob,{AT},pv,lamp")
    path = log(tmp_path / "log.csv", *lines, header="user,at,what,sku")
    report = ingest([path], shop(fields=FIELDS, time={"zone": zone}), settings)
    assert report.quarantined == {"unparsable_time": 1}
