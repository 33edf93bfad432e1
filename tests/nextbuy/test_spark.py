"""The same on Spark: every table to the byte."""

import shutil
from importlib.util import find_spec

import pytest

from nextbuy.settings import Settings
from nextbuy.tables.spark import spark_engine
from nextbuy.times import DAY, HOUR, MINUTE
from nextbuy.versioned_table import manifest
from tests.nextbuy.histories import event
from tests.nextbuy.test_incremental import build, publish, tables

pytestmark = [
    pytest.mark.skipif(
        find_spec("pyspark") is None, reason="requirements/spark.lock not installed"
    ),
    pytest.mark.skipif(shutil.which("java") is None, reason="no java on PATH"),
]


def history():
    """Ties, a log-in with a past, a bot's burst, a session over midnight, carts and money."""
    kinds = ["view", "scroll", "add_to_cart", "remove_from_cart", "purchase", "view", "view"]
    events = [
        event(
            f"u{i % 5}",
            (0, 1, 2, 8, 31, 40)[i % 6] * DAY + i % 7 * HOUR + i % 3 * MINUTE + (i % 2) * 23 * HOUR,
            kinds[i % 7],
            f"i{i % 4}",
            category=(None, "c1", "c2")[i % 3],
            brand=(None, "b1")[i % 2],
            price=(None, 0, 999, 123_456)[i % 4],
            discount=(None, 0, 100)[i % 3],
            source_session_id=f"s{i}",
        )
        for i in range(200)
    ]
    events += [event("a1", i * MINUTE, "view", source_session_id="s1") for i in range(3)]
    events += [event("u1", HOUR, "login", source_session_id="s1")]
    # More shoppers than a shop session can have: nobody is linked.
    events += [event(f"a{i}", i * MINUTE, "view", source_session_id="0") for i in range(2, 5)]
    events += [event("u2", HOUR, "login", source_session_id="0")]
    events += [event("u9", 5 * DAY + i, "view", f"i{i}") for i in range(8)]
    return list({e["event_id"]: e for e in events}.values())


def test_spark_gives_the_tables_of_duckdb(tmp_path):
    data = Settings(data=tmp_path, threads=1, spark_master="local[1]")
    publish(data, history())
    build(data)
    wanted = {table: manifest(table) for table in tables(data)}
    shutil.rmtree(data.features)
    for table in (data.sessions, data.labels):
        table.unlink()
    with spark_engine(data) as compute:
        build(data, compute)
    for table, one in wanted.items():
        assert one.rows > 0
        assert manifest(table) == one, table.name
    assert not (data.data / "tmp" / "spark").exists()
