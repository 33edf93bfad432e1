"""Every schema that holds a shopper's id is declared, and every file of a used folder is known."""

import pyarrow.parquet as pq
import pytest

from bento.bulk import SCORE_SCHEMA
from generators.writer import TRUTH_SCHEMA
from monitoring import champion_scores, reports
from nextbuy import events, prediction_log
from nextbuy.features import TABLES
from nextbuy.ingest import quarantine
from nextbuy.live import store_schema, write_history
from nextbuy.live.event_store import LiveStore
from nextbuy.maintenance.places import is_shop, place_of, shop_files, shops_below
from nextbuy.settings import Settings
from training.dataset import ROW_COLUMNS

OF_SHOPPERS = {"user_id", "visitor_id", "shopper_id", "anonymous_id", "device_id", "customer_id"}
"""How a column of shoppers may be called."""


@pytest.mark.parametrize(
    ("columns", "declared"),
    [
        (events.EVENT_SCHEMA.names, events.SHOPPER_COLUMNS),
        (prediction_log.PREDICTION_SCHEMA.names, prediction_log.SHOPPER_COLUMNS),
        (TRUTH_SCHEMA.names, events.SHOPPER_COLUMNS),
        (SCORE_SCHEMA.names, events.SHOPPER_COLUMNS),
        (ROW_COLUMNS, events.SHOPPER_COLUMNS),
        (champion_scores.KEYS, events.SHOPPER_COLUMNS),
        (["file", "row", "value", "raw", "user_id"], quarantine.SHOPPER_COLUMNS),
        *((t.keys, events.SHOPPER_COLUMNS) for t in TABLES if "user_id" in t.keys),
        *((t.keys, write_history.SHOPPER_COLUMNS) for t in TABLES if "user_id" in t.keys),
        *((t.keys, ()) for t in TABLES if "user_id" not in t.keys),
        *(
            (schema.names, ())
            for schema in (
                reports.DRIFT, reports.PERFORMANCE, reports.ALERTS, reports.LATENCY,
                reports.VERSIONS,
            )
        ),
    ],
)  # fmt: skip
def test_the_columns_of_shoppers_are_declared(columns, declared):
    assert OF_SHOPPERS & set(columns) == set(declared)


def test_no_feature_is_called_like_a_shopper():
    assert not {f.name for table in TABLES for f in table.features} & OF_SHOPPERS


def test_every_table_of_the_live_store_is_declared(tmp_path):
    with LiveStore(Settings(data=tmp_path)) as store:
        tables = [t for (t,) in store.sql.execute("SELECT name FROM sqlite_schema WHERE sql > ''")]
        columns = {
            table: {name for _, name, *_ in store.sql.execute(f"PRAGMA table_info({table})")}
            for table in tables
        }
    named = {t: found.pop() for t, cols in columns.items() if (found := OF_SHOPPERS & cols)}
    assert named == store_schema.SHOPPER_COLUMNS


def test_another_shop_within_the_folder_is_none_of_its_files(tmp_path):
    for shop, mark in (("", "shop.json"), ("new", "shop.json"), ("old", ".versions/events-1/x")):
        file = tmp_path / shop / mark
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
        (tmp_path / shop / "runs").mkdir()
        (tmp_path / shop / "runs/1.json").write_text("{}")
    (tmp_path / "features/.versions/user-1/day=2024-01-01").mkdir(parents=True)
    (tmp_path / "features/.versions/user-1/day=2024-01-01/part-0.parquet").write_text("")
    assert [str(p.relative_to(tmp_path)) for p in shops_below(tmp_path)] == ["new", "old"]
    assert [str(f.path.relative_to(tmp_path)) for f in shop_files(tmp_path)] == [
        "features/.versions/user-1/day=2024-01-01/part-0.parquet", "runs/1.json", "shop.json",
    ]  # fmt: skip
    assert not is_shop(tmp_path / "features")


def unknown_files(data):
    """Files of a used data folder that no line of `PLACES` fits, or whose columns it misses."""
    for file in shop_files(data):
        if place_of(file.path.relative_to(data)) is None:
            yield file.path
        elif file.path.suffix == ".parquet":
            named = OF_SHOPPERS & set(pq.read_schema(file.path).names)
            if not named <= set(file.shopper_columns):
                yield file.path
