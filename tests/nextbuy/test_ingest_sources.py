"""The shipped mappings, on samples written here and on the real logs where they lie."""

import csv
import gzip
import json
import os
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nextbuy.events import EVENT_SCHEMA
from nextbuy.ingest.source import Limits, load_sources
from nextbuy.settings import PROJECT, Settings
from nextbuy.versioned_table import manifest
from tests.nextbuy.small_log import event_rows, ingest, log, quarantined, reconciles

SHARED = Path(os.environ.get("NEXTBUY_SHARED_DATA", PROJECT.parent / "shared" / "data"))


def shipped(name):
    (source,) = load_sources(PROJECT / "configs" / "sources" / f"{name}.yaml")
    return source


@pytest.fixture
def settings(tmp_path):
    return Settings(data=tmp_path / "data")


def short(settings):
    """Published events as (user, time, type, item, category, brand, price)."""
    return [
        (
            row["user_id"],
            f"{row['event_time']:%d %H:%M:%S}",
            row["event_type"],
            row["item_id"],
            row["category"],
            row["brand"],
            row["price"],
        )
        for row in event_rows(settings)
    ]


def test_rees46(tmp_path, settings):
    header = (
        "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,"
        "user_session"
    )
    path = log(
        tmp_path / "2019-Oct.csv",
        "2019-10-01 00:00:00 UTC,view,100,205,,shiseido,35.79,54,72d7",
        "2019-10-01 00:00:04 UTC,cart,101,206,appliances.kettle,,0.00,54,72d7",
        "2019-10-01 00:01:04 UTC,purchase,101,206,appliances.kettle,,12.5,54,",
        header=header,
    )
    ingest([path], shipped("rees46"), settings)
    assert short(settings) == [
        ("54", "01 00:00:00", "view", "100", "205", "shiseido", 3579),
        ("54", "01 00:00:04", "add_to_cart", "101", "206", None, None),
        ("54", "01 00:01:04", "purchase", "101", "206", None, 1250),
    ]
    assert [r["source_session_id"] for r in event_rows(settings)] == ["72d7", "72d7", None]


def test_rees46_cosmetics(tmp_path, settings):
    path = log(
        tmp_path / "2019-Dec.csv",
        "2019-12-01 00:00:00 UTC,remove_from_cart,5712790,1487580005268456287,,f.o.x,6.27,57,4d",
        "2019-12-01 00:00:00 UTC,cart,5712790,1487580005268456287,,f.o.x,6.27,57,4d",
        header="event_time,event_type,product_id,category_id,category_code,brand,price,user_id,"
        "user_session",
    )
    ingest([path], shipped("rees46_cosmetics"), settings)
    assert {row[2] for row in short(settings)} == {"remove_from_cart", "add_to_cart"}
    assert short(settings)[0][3:] == ("5712790", "1487580005268456287", "f.o.x", 627)


def test_taobao(tmp_path, settings):
    path = log(
        tmp_path / "UserBehavior.csv",
        "1000,1385281,2352202,pv,1511541853",
        "1000,5120034,1051370,cart,1511542034",
        "1000,5120034,1051370,fav,1511542035",
        "1000,5120034,1051370,buy,1511542036",
        header="",
    )
    report = ingest([path], shipped("taobao"), settings)
    assert short(settings) == [
        ("1000", "24 16:44:13", "view", "1385281", "2352202", None, None),
        ("1000", "24 16:47:14", "add_to_cart", "5120034", "1051370", None, None),
        ("1000", "24 16:47:16", "purchase", "5120034", "1051370", None, None),
    ]
    assert report.ignored == {"fav": 1}


def test_jdata(tmp_path, settings):
    header = "user_id,sku_id,time,model_id,type,cate,brand"
    path = log(
        tmp_path / "JData_Action_201602.csv",
        "266079.0,138778,2016-01-31 23:59:02,,1,8,403",
        "266079.0,138778,2016-01-31 23:59:03,0,6,8,403",
        "266079.0,138778,2016-02-01 08:00:00,,2,,",
        "266079.0,138778,2016-02-01 08:00:01,,3,8,403",
        "266079.0,138778,2016-02-01 08:00:02,,4,8,403",
        "266079.0,138778,2016-02-01 08:00:02,,5,8,403",
        header=header,
    )
    products = log(
        tmp_path / "JData_Product.csv",
        "138778,3,1,1,8,403",
        header="sku_id,a1,a2,a3,cate,brand",
    )
    report = ingest([path], shipped("jdata"), settings, items=products)
    assert short(settings) == [  # Shanghai is eight hours ahead
        ("266079", "31 15:59:02", "view", "138778", "8", "403", None),
        ("266079", "01 00:00:00", "add_to_cart", "138778", "8", "403", None),
        ("266079", "01 00:00:01", "remove_from_cart", "138778", "8", "403", None),
        ("266079", "01 00:00:02", "purchase", "138778", "8", "403", None),
    ]
    assert report.ignored == {"5": 1, "6": 1}


def test_retailrocket(tmp_path, settings):
    path = log(
        tmp_path / "events.csv",
        "1439694000000,1,view,100,",
        "1439694000001,2,addtocart,100,",
        "1439780400000,2,transaction,100,234",
        header="timestamp,visitorid,event,itemid,transactionid",
    )
    header = "timestamp,itemid,property,value"
    log(
        tmp_path / "item_properties_part1.csv",
        "1439694000001,100,categoryid,1338",
        "1439694000000,100,888,1116713 960601 n277.200",
        header=header,
    )
    log(
        tmp_path / "item_properties_part2.csv",
        "1439700000000,100,categoryid,1400",
        "1440000000000,100,categoryid,1500",
        header=header,
    )
    source = shipped("retailrocket")
    ingest([path], source, settings, items=f"{tmp_path}/item_properties_part*.csv")
    assert short(settings) == [
        ("1", "16 03:00:00", "view", "100", None, None, None),
        ("2", "16 03:00:00", "add_to_cart", "100", "1338", None, None),
        ("2", "17 03:00:00", "purchase", "100", "1400", None, None),
    ]


def test_ga4(tmp_path, settings):
    """BigQuery writes whole numbers as text and leaves out what is null."""

    def event(name, micros, *items, user=None, session="1609459100"):
        params = [
            {"key": "page_location", "value": {"string_value": "https://shop.example/"}},
            *([{"key": "ga_session_id", "value": {"int_value": session}}] if session else []),
        ]
        return {
            "event_date": "20210101",
            "event_timestamp": str(micros),
            "event_name": name,
            "event_params": params,
            "user_pseudo_id": "77.88",
            **({"user_id": user} if user else {}),
            "items": list(items),
        }

    mug = {"item_id": "mug", "item_brand": "(not set)", "item_category": "Home", "price": 9.99}
    cap = {"item_id": "cap", "item_brand": "Acme", "item_category": "Apparel", "price": 20}
    lines = [
        event("page_view", 1609459200000000),
        event("view_item", 1609459201000000, mug),
        event("login", 1609459202000000, user="ann"),
        event("purchase", 1609459203000001, mug, cap, user="ann"),
        event("view_item", 1609459204000000, {**mug, "item_id": "(not set)"}),
        event("view_item", 1609459205000000),
        event("view_item", 1609459206000000, cap, session=None),
    ]
    path = tmp_path / "events_20210101.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = shipped("ga4").model_copy(update={"limits": Limits(max_bad_share=0.5)})
    report = ingest([path], source, settings)
    assert short(settings) == [
        ("77.88", "01 00:00:01", "view", "mug", "Home", None, 999),
        ("ann", "01 00:00:02", "login", None, None, None, None),
        *sorted(
            [
                ("ann", "01 00:00:03", "purchase", "mug", "Home", None, 999),
                ("ann", "01 00:00:03", "purchase", "cap", "Apparel", "Acme", 2000),
            ],
            key=lambda row: [r["item_id"] for r in event_rows(settings)].index(row[3]),
        ),
        ("77.88", "01 00:00:06", "view", "cap", "Apparel", "Acme", 2000),
    ]
    sessions = [row["source_session_id"] for row in event_rows(settings)]
    assert sessions == ["77.88-1609459100"] * 4 + ["77.88-none"]
    assert event_rows(settings)[2]["event_time"].microsecond == 1
    assert report.ignored == {"page_view": 1}
    assert [(row["reason"], row["row"]) for row in quarantined(report)] == [
        ("missing_item", 5),
        ("missing_item", 6),
    ]
    assert report.read == 8  # seven lines, one of them with two items
    assert reconciles(report, settings)


def test_simulated(tmp_path, settings):
    moment = datetime(2024, 1, 1, 12, tzinfo=UTC)
    rows = [
        ("e2", "ann", moment + timedelta(microseconds=1), "login", *[None] * 5, "s1"),
        ("e1", "visitor-7", moment, "view", "i1", "c1", "b1", 1999, 200, "s1"),
        ("e1", "visitor-7", moment, "view", "i1", "c1", "b1", 1999, 200, "s1"),
        ("e3", "ann", moment + timedelta(days=1), "scroll", "i1", "c1", "b1", 1999, 0, "s2"),
    ]
    table = pa.Table.from_pylist(
        [dict(zip(EVENT_SCHEMA.names, row, strict=True)) for row in rows], schema=EVENT_SCHEMA
    )
    pq.write_table(table, tmp_path / "arrival=2024-01-01.parquet")
    report = ingest([tmp_path / "*.parquet"], shipped("simulated"), settings)
    assert report.duplicates_in_batch == 1
    assert event_rows(settings) == [
        dict(zip(EVENT_SCHEMA.names, rows[i], strict=True)) for i in (1, 0, 3)
    ]


# -- the real logs, whole ---------------------------------------------------------------------


def real(*names):
    missing = [name for name in names if not (SHARED / name).exists()]
    return pytest.mark.skipif(bool(missing), reason=f"not in {SHARED}: {', '.join(missing)}")


def cells(name):
    """A real log read by Python's own CSV reader, the cut last row left out."""
    with gzip.open(SHARED / name, "rt", newline="") as file:
        rows = list(csv.reader(file))
    return [row for row in rows if len(row) == len(rows[0])]


@real("rees46_2019-10-01.csv.gz")
def test_rees46_whole(settings):
    name = "rees46_2019-10-01.csv.gz"
    report = ingest([SHARED / name], shipped("rees46"), settings)
    header, *rows = cells(name)
    assert len(rows) == 17_434
    distinct = set(map(tuple, rows))
    assert (report.read, report.published) == (17_435, len(distinct)) == (17_435, 17_429)
    assert report.duplicates_in_batch == len(rows) - len(distinct) == 5
    assert report.quarantined == {"wrong_number_of_cells": 1}
    (cut,) = quarantined(report)
    assert cut["row"] == 17_436
    assert cut["raw"]["line"].startswith("2019-10-01 02:50:00 UTC,view,10900305,")
    assert manifest(settings.events).rows == 17_429
    unknown = sum(float(row[header.index("price")]) <= 0 for row in distinct)
    assert sum(row["price"] is None for row in event_rows(settings)) == unknown
    paid = sum(round(100 * float(row[6])) for row in distinct)
    assert sum(row["price"] or 0 for row in event_rows(settings)) == paid
    assert reconciles(report, settings)


@real("taobao_userbehavior.csv.gz")
def test_taobao_whole(settings):
    name = "taobao_userbehavior.csv.gz"
    report = ingest([SHARED / name], shipped("taobao"), settings)
    behaviour = Counter(row[3] for row in cells(name))
    assert report.read == behaviour.total() == 58_772
    assert report.ignored == {"fav": behaviour["fav"]}
    assert (report.published, report.duplicates_in_batch, report.quarantined) == (57_128, 0, {})
    assert Counter(row["event_type"] for row in event_rows(settings)) == {
        "view": behaviour["pv"],
        "add_to_cart": behaviour["cart"],
        "purchase": behaviour["buy"],
    }
    assert behaviour["buy"] == 1_216
    assert len({row["user_id"] for row in event_rows(settings)}) == 555
    assert reconciles(report, settings)


@real(*(f"jdata_action_20160{month}.csv.gz" for month in (2, 3, 4)), "jdata_product.csv.gz")
def test_jdata_whole(tmp_path, settings):
    names = [f"jdata_action_20160{month}.csv.gz" for month in (2, 3, 4)]
    products = SHARED / "jdata_product.csv.gz"
    source = shipped("jdata")
    report = ingest([SHARED / "jdata_action_*.csv.gz"], source, settings, items=products)
    rows = [row for name in names for row in cells(name)[1:]]
    assert report.read == len(rows) == 3 * 29_999
    assert len(rows) - len(set(map(tuple, rows))) == 23_870
    types = Counter(row[4] for row in rows)
    assert report.ignored == {"5": types["5"], "6": types["6"]} == {"5": 223, "6": 53_209}
    # model_id, the fourth column, is not canonical.
    used = [(*row[:3], *row[4:]) for row in rows if row[4] in "1234"]
    assert report.published == len(set(used)) == 19_544
    assert report.duplicates_in_batch == len(used) - len(set(used)) == 17_021
    assert report.quarantined == {}
    kinds = {"1": "view", "2": "add_to_cart", "3": "remove_from_cart", "4": "purchase"}
    assert Counter(row["event_type"] for row in event_rows(settings)) == Counter(
        kinds[row[3]] for row in set(used)
    )
    assert reconciles(report, settings)

    apart = Settings(data=tmp_path / "apart")
    for name in reversed(names):
        piece = ingest([SHARED / name], source, apart, items=products)
        assert reconciles(piece, apart)
    assert event_rows(apart) == event_rows(settings)
    assert manifest(apart.events) == manifest(settings.events)
