"""A mapping drafted from the look of a log: right on real logs, also with the names taken away."""

import dataclasses
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nextbuy.cli import app
from nextbuy.errors import NextbuyError
from nextbuy.ingest.draft import draft
from nextbuy.ingest.sample import take_sample
from nextbuy.ingest.source import load_sources
from nextbuy.settings import PROJECT, Settings
from tests.nextbuy.small_log import event_rows, ingest

SHARED = Path(os.environ.get("NEXTBUY_SHARED_DATA", PROJECT.parent / "shared" / "data"))
FIELDS = ("user_id", "event_time", "event_type", "item_id")
LOGS = {
    "alibaba_tmall_2013.csv.gz": ("user_id", "time_made", "type", "brand_id"),
    "jdata_action_201602.csv.gz": ("user_id", "time", "type", "sku_id"),
    "jdata_action_201603.csv.gz": ("user_id", "time", "type", "sku_id"),
    "jdata_action_201604.csv.gz": ("user_id", "time", "type", "sku_id"),
    "rees46_2019-10-01.csv.gz": ("user_id", "event_time", "event_type", "product_id"),
    "taobao_userbehavior.csv.gz": ("c1", "c5", "c4", "c2"),
    "online_retail_ii.parquet": ("customer_id", "invoice_date", None, "stock_code"),
    "complete_journey.parquet": ("household_id", "transaction_timestamp", None, "product_id"),
}
"""Log -> its columns of shopper, time, type and item; no type where all rows are purchases."""


@pytest.mark.parametrize("names", ["as they are", "taken away"])
@pytest.mark.parametrize("log", LOGS)
def test_the_columns_of_real_logs(log, names):
    if not (SHARED / log).exists():
        pytest.skip(f"not in {SHARED}: {log}")
    sample = take_sample(SHARED / log)
    called = {
        name: f"c{i}" if names == "taken away" else name
        for i, name in enumerate(sample.rows.columns, 1)
    }
    guesses = draft(dataclasses.replace(sample, rows=sample.rows.rename(columns=called))).fields
    columns = [None if guesses[f].is_expression else guesses[f].column for f in FIELDS]
    assert columns == [called.get(name) for name in LOGS[log]]


GERMAN = """Zeitpunkt;Besucher;Aktion;Artikel;Warengruppe;Preis
01.03.2024 10:00:00;ann;angesehen;A-1;Lampen;39.90
01.03.2024 10:01:00;ann;in den Warenkorb;A-1;Lampen;39.90
01.03.2024 10:02:00;bob;angesehen;A-2;Stühle;120.00
01.03.2024 10:05:00;ann;gekauft;A-1;Lampen;39.90
01.03.2024 10:06:00;bob;Newsletter;;;
"""
NESTED = """{"who": "u1", "at": 1709287200, "what": "Product Viewed", "p": {"product_id": "sku-1"}}
{"who": "u1", "at": 1709287300, "what": "Product Added", "p": {"product_id": "sku-1"}}
{"who": "u2", "at": 1709287400, "what": "Order Completed", "p": {"product_id": "sku-2"}}
"""


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (GERMAN, ["view", "add_to_cart", "view", "purchase"]),
        (NESTED, ["view", "add_to_cart", "purchase"]),
    ],
    ids=["German CSV", "nested JSON"],
)
def test_the_draft_is_a_mapping_that_reads_the_log(tmp_path, text, kinds):
    log = tmp_path / "log"
    log.write_text(text)
    made = CliRunner().invoke(app, ["map", str(log), "--name", "mine"])
    assert made.exit_code == 0, made.output
    (tmp_path / "mine.yaml").write_text(made.output)
    (source,) = load_sources(tmp_path / "mine.yaml")
    settings = Settings(data=tmp_path / "data")
    report = ingest([log], source, settings)
    assert [row["event_type"] for row in event_rows(settings)] == kinds
    assert not report.quarantined
    assert f"nextbuy check '{log}' --source FILE" in made.output


def test_what_is_unsure_has_a_mark_and_a_known_log_is_recognised(tmp_path):
    columns = "event_time,event_type,product_id,category_id,brand,price,user_id,user_session"
    row = "2019-10-01 00:00:00 UTC,view,1001,77,acme,9.90,501,s1"
    (tmp_path / "log.csv").write_text(f"{columns}\n{row}\n")
    made = CliRunner().invoke(app, ["map", str(tmp_path / "log.csv")])
    assert "`--source rees46`, which ships" in made.output
    (tmp_path / "orders.csv").write_text(
        "Email,Created at,Lineitem sku\na@x.test,2024-08-04 05:24:22 +0500,TEE-1\n"
    )
    made = CliRunner().invoke(app, ["map", str(tmp_path / "orders.csv")])
    assert "event_type: {sql: '''purchase'''}" in made.output
    assert "# ? no column says what happened" in made.output


@pytest.mark.parametrize("text", ["", "\n\n", "a,b\n"])
def test_a_log_without_rows_is_refused(tmp_path, text):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(NextbuyError, match=r"is empty|has no rows"):
        take_sample(tmp_path / "log.csv")
