"""The simulated log and its truth, held against labels that plain SQL finds in the log."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sklearn.metrics import average_precision_score

from generators.shop import ShopConfig, SimulationSummary, open_shop, simulate
from nextbuy import versioned_table
from nextbuy.events import EVENT_SCHEMA

SMALL = ShopConfig(shoppers=60, items=40, days=12, seed=3, bots=2, bot_daily_rate=0.2)


class Shop(NamedTuple):
    config: ShopConfig
    log: Path
    truth: Path
    summary: SimulationSummary
    sql: duckdb.DuckDBPyConnection


SESSIONS = """
CREATE TABLE link AS -- a log-in tells whose the visitor id is
SELECT DISTINCT visit.user_id AS visitor_id, login.user_id AS person
FROM raw AS visit JOIN raw AS login USING (source_session_id)
WHERE login.event_type = 'login' AND visit.user_id <> login.user_id;
CREATE TABLE event AS
SELECT *, sum(is_first) OVER (PARTITION BY person ORDER BY event_time, event_id) AS session
FROM (
    SELECT *, coalesce(event_time - lag(event_time) OVER mine > INTERVAL 30 MINUTE, true)::INT
        AS is_first
    FROM (SELECT DISTINCT raw.*, coalesce(person, user_id) AS person
        FROM raw LEFT JOIN link ON user_id = visitor_id)
    WINDOW mine AS (PARTITION BY person ORDER BY event_time, event_id)
);
CREATE TABLE session AS -- a visit is of the id that it ends with
SELECT max(user_id) AS user_id, person, session, max(event_time) AS end_time,
    coalesce(min(event_time) FILTER (event_type = 'login'), min(event_time)) AS start_time,
    count(*) > 100 AS is_bot
FROM event GROUP BY person, session;
CREATE TABLE touch AS
SELECT person, session, item_id, bool_or(event_type = 'purchase') AS has_purchase
FROM event WHERE item_id IS NOT NULL GROUP BY ALL;
"""

LABELS = """
SELECT s.user_id, touch.item_id, s.end_time AS event_timestamp,
    coalesce(n.start_time <= s.end_time + to_days($horizon) AND b.has_purchase, false) AS label
FROM touch
JOIN session s USING (person, session)
LEFT JOIN session n ON n.person = s.person AND n.session = s.session + 1
LEFT JOIN touch b
    ON b.person = s.person AND b.session = s.session + 1 AND b.item_id = touch.item_id
WHERE NOT s.is_bot
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    config = ShopConfig(shoppers=800, items=300, days=100)
    log, truth = folder / "raw", folder / "truth"
    summary = simulate(config, log, truth)
    with duckdb.connect() as sql:
        sql.execute("SET TimeZone = 'UTC'")
        sql.execute(f"CREATE VIEW raw AS FROM '{log}/*.parquet'")
        sql.execute(f"CREATE VIEW truth AS FROM '{versioned_table.files(truth)}'")
        sql.execute(SESSIONS)
        yield Shop(config, log, truth, summary, sql)


@pytest.fixture(scope="module")
def labelled(shop: Shop) -> pd.DataFrame:
    """Truth rows whose whole horizon was simulated, with the label that the log gives them."""
    return shop.sql.execute(
        f"""SELECT probability, label FROM truth JOIN ({LABELS}) USING
        (user_id, item_id, event_timestamp) WHERE epoch_us(event_timestamp) <= $until""",
        {"horizon": shop.config.horizon_days, "until": shop.config.matured_until},
    ).df()


def count(shop: Shop, query: str) -> int:
    row = shop.sql.execute(query).fetchone()
    assert row
    return int(row[0])


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.glob("**/*.parquet"))}


def test_same_seed_same_bytes(tmp_path: Path) -> None:
    made = []
    for name, config in [
        ("one", SMALL), ("two", SMALL), ("other", SMALL.model_copy(update={"seed": 4})),
    ]:  # fmt: skip
        simulate(config, tmp_path / name / "raw", tmp_path / name / "truth")
        truth = (tmp_path / name / "truth").resolve()
        made.append((contents(tmp_path / name / "raw"), contents(truth)))
    assert made[0][0]
    assert made[0][1]
    assert made[0] == made[1]
    assert made[0][0] != made[2][0]
    assert made[0][1] != made[2][1]


def test_log_has_the_canonical_schema(shop: Shop) -> None:
    files = sorted(shop.log.glob("arrival=*.parquet"))
    assert len(files) >= shop.config.days
    assert all(pq.read_schema(file).equals(EVENT_SCHEMA) for file in files)


def test_truth_is_one_row_for_each_item_touched_by_a_shopper(shop: Shop) -> None:
    touched = f"SELECT user_id, item_id, event_timestamp FROM ({LABELS.replace('$horizon', '1')})"
    known = "SELECT user_id, item_id, event_timestamp FROM truth"
    assert count(shop, f"SELECT count(*) FROM ({touched} EXCEPT ALL {known})") == 0
    assert count(shop, f"SELECT count(*) FROM ({known} EXCEPT ALL {touched})") == 0
    assert count(shop, "SELECT count(*) FROM truth") == shop.summary.truth_rows
    assert versioned_table.require(shop.truth, "nextbuy simulate").rows == shop.summary.truth_rows


def test_truth_is_calibrated(labelled: pd.DataFrame) -> None:
    edges = [-0.1, 1e-9, 0.003, 0.01, 0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0]
    bins = labelled.groupby(pd.cut(labelled.probability, edges), observed=True)
    assert len(bins) >= 9
    for interval, rows in bins:
        p = rows.probability
        off = abs(rows.label.sum() - p.sum())
        assert off <= 3.5 * np.sqrt((p * (1 - p)).sum()) + 1e-6, f"{interval}: off by {off}"


def test_offers_at_random_do_what_the_truth_says_of_them(tmp_path: Path) -> None:
    config = ShopConfig(shoppers=600, items=200, days=90, offer_share=0.5)
    simulate(config, tmp_path / "raw", tmp_path / "truth")
    with duckdb.connect() as sql:
        sql.execute("SET TimeZone = 'UTC'")
        sql.execute(f"CREATE VIEW raw AS FROM '{tmp_path / 'raw'}/*.parquet'")
        sql.execute(SESSIONS)
        rows = sql.execute(
            f"""SELECT probability, is_offered, uplift, label
            FROM '{versioned_table.files(tmp_path / "truth")}' JOIN ({LABELS})
            USING (user_id, item_id, event_timestamp) WHERE epoch_us(event_timestamp) <= $until""",
            {"horizon": config.horizon_days, "until": config.matured_until},
        ).df()
    assert rows.is_offered.mean() == pytest.approx(0.5, abs=0.03)
    for offered, arm in rows.groupby("is_offered"):
        p = arm.probability
        assert abs(arm.label.sum() - p.sum()) <= 3.5 * np.sqrt((p * (1 - p)).sum()), offered
    control = rows.probability - rows.uplift.where(rows.is_offered, 0.0)
    assert ((control > -1e-9) & (control + rows.uplift < 1 + 1e-9)).all()
    assert rows.uplift.mean() > 0.005
    assert (rows.uplift < 0).any()  # some are put off


def test_truth_with_little_time_left_is_calibrated(tmp_path: Path) -> None:
    """A horizon of one day puts most of the weight on the cut within a day."""
    config = ShopConfig(shoppers=1500, items=100, days=60, horizon_days=1, guest_share=0.5)
    simulate(config, tmp_path / "raw", tmp_path / "truth")
    with duckdb.connect() as sql:
        sql.execute("SET TimeZone = 'UTC'")
        sql.execute(f"CREATE VIEW raw AS FROM '{tmp_path}/raw/*.parquet'")
        sql.execute(SESSIONS)
        rows = sql.execute(
            f"""SELECT user_id, event_timestamp, user_id[1] = 'a' AS anonymous, probability, label
            FROM '{versioned_table.files(tmp_path / "truth")}' JOIN ({LABELS}) USING
            (user_id, item_id, event_timestamp) WHERE epoch_us(event_timestamp) <= $until""",
            {"horizon": 1, "until": config.matured_until},
        ).df()
    for _, group in rows.groupby("anonymous"):
        assert group.label.sum() > 20
        # The items of one session share its fate: whether the shopper comes back at all.
        off = (group.label - group.probability).groupby([group.user_id, group.event_timestamp])
        assert abs(off.sum().sum()) <= 3.5 * np.sqrt((off.sum() ** 2).sum())


def test_task_is_neither_rare_nor_easy(shop: Shop, labelled: pd.DataFrame) -> None:
    summary = shop.summary
    assert summary.matured_rows == len(labelled)
    assert summary.base_rate == pytest.approx(labelled.label.mean())
    oracle = average_precision_score(labelled.label, labelled.probability)
    assert summary.oracle_pr_auc == pytest.approx(oracle, abs=1e-3)
    assert 0.035 < summary.base_rate < 0.065
    assert 0.45 < summary.oracle_pr_auc < 0.75


def test_sessions_of_the_shop_are_those_of_thirty_quiet_minutes(shop: Shop) -> None:
    pairs = "SELECT DISTINCT person, session, source_session_id FROM event"
    by_gap = count(shop, "SELECT count(*) FROM session")
    assert count(shop, f"SELECT count(*) FROM ({pairs})") == by_gap
    by_shop = "SELECT DISTINCT person, source_session_id FROM event"
    assert count(shop, f"SELECT count(*) FROM ({by_shop})") == by_gap
    sessions = shop.summary.sessions + shop.summary.bot_runs
    assert count(shop, "SELECT count(DISTINCT source_session_id) FROM event") == sessions


def test_times_within_one_user_differ(shop: Shop) -> None:
    ties = "SELECT user_id, event_time FROM event GROUP BY ALL HAVING count(*) > 1"
    assert count(shop, f"SELECT count(*) FROM ({ties})") == 0


def test_some_events_arrive_late_and_none_before_it_happened(shop: Shop) -> None:
    shop.sql.execute(f"""CREATE OR REPLACE TABLE arrived AS
        SELECT event_time, parse_filename(filename, true)[9:]::DATE AS arrival
        FROM read_parquet('{shop.log}/*.parquet', filename = true, hive_partitioning = false)""")
    assert count(shop, "SELECT count(*) FROM arrived WHERE event_time::DATE > arrival") == 0
    late = count(shop, "SELECT count(*) FROM arrived WHERE event_time::DATE < arrival")
    assert 0 < late < shop.summary.late_events + shop.summary.duplicate_events
    assert shop.summary.late_events == pytest.approx(0.005 * shop.summary.events, rel=0.3)


def test_duplicates_repeat_an_event_exactly(shop: Shop) -> None:
    rows = count(shop, "SELECT count(*) FROM raw")
    events = count(shop, "SELECT count(DISTINCT event_id) FROM raw")
    assert count(shop, "SELECT count(*) FROM (SELECT DISTINCT * FROM raw)") == events
    assert events == shop.summary.events
    assert rows - events == shop.summary.duplicate_events > 0


def test_a_log_in_ends_the_anonymous_part_of_its_session(shop: Shop) -> None:
    shop.sql.execute("""CREATE OR REPLACE TABLE log_in AS
        SELECT source_session_id, user_id, event_time, item_id, price
        FROM event WHERE event_type = 'login'""")
    assert count(shop, "SELECT count(*) FROM log_in") == shop.summary.log_ins > 0
    assert (
        count(shop, "SELECT count(*) FROM log_in WHERE coalesce(item_id, price::TEXT) IS NOT NULL")
        == 0
    )
    sides = """SELECT l.source_session_id,
            count(*) FILTER (e.user_id <> l.user_id AND e.user_id[1] = 'a') AS before,
            count(*) FILTER (e.user_id <> l.user_id AND e.event_time >= l.event_time) AS wrong,
            count(*) FILTER (e.user_id = l.user_id AND e.event_time < l.event_time) AS early,
            count(*) FILTER (e.user_id = l.user_id AND e.item_id IS NOT NULL) AS after
        FROM log_in l JOIN event e USING (source_session_id) GROUP BY ALL"""
    bad = f"SELECT count(*) FROM ({sides}) WHERE before = 0 OR after = 0 OR wrong + early > 0"
    assert count(shop, bad) == 0


def test_an_anonymous_visitor_shops_and_then_signs_up(shop: Shop) -> None:
    assert shop.summary.anonymous_visitors > 0
    past = """SELECT count(*) FROM log_in l WHERE EXISTS (
        FROM event now JOIN event past USING (user_id)
        WHERE now.source_session_id = l.source_session_id AND user_id <> l.user_id
            AND past.source_session_id <> l.source_session_id AND past.event_type = 'purchase')"""
    assert count(shop, past) > 0


def test_bots_view_at_a_machines_pace(shop: Shop) -> None:
    shop.sql.execute("""CREATE OR REPLACE TABLE run AS
        SELECT event.user_id, session, count(*) AS n, list_distinct(list(event_type)) AS types,
            epoch(max(event_time) - min(event_time)) / count(*) AS pace
        FROM event JOIN session USING (person, session) WHERE is_bot GROUP BY ALL""")
    assert count(shop, "SELECT count(*) FROM run") == shop.summary.bot_runs > 0
    assert count(shop, "SELECT sum(n) FROM run") == shop.summary.bot_events
    assert count(shop, "SELECT count(*) FROM run WHERE pace > 1 OR types <> ['view']") == 0
    assert count(shop, "SELECT count(*) FROM truth SEMI JOIN run USING (user_id)") == 0


def test_price_and_discount_make_the_list_price(shop: Shop) -> None:
    assert count(shop, "SELECT count(*) FROM event WHERE price < 1 OR discount < 0") == 0
    assert count(shop, "SELECT count(*) FROM event WHERE discount > 0") > 0
    lists = "SELECT item_id FROM event GROUP BY ALL HAVING count(DISTINCT price + discount) > 1"
    assert count(shop, f"SELECT count(*) FROM ({lists})") == 0


def test_what_is_out_of_stock_is_looked_at_but_never_bought(shop: Shop) -> None:
    world, _ = open_shop(shop.config)
    rows = shop.sql.execute("""
        SELECT epoch_us(start_time) AS start, item_id[2:]::INT AS item,
            event_type = 'purchase' AS bought, event_type = 'view' AS viewed
        FROM event JOIN session USING (person, session) WHERE item_id IS NOT NULL AND NOT is_bot
    """).df()
    day = (rows.start - shop.config.begin) // 86_400_000_000
    gone = ~world.daily_offer.in_stock[day, rows.item]
    assert rows.viewed[gone].sum() > 20
    assert rows.bought[gone].sum() == 0


def test_a_run_replaces_the_one_before_and_a_failed_one_does_not(tmp_path: Path) -> None:
    log, truth = tmp_path / "raw", tmp_path / "truth"
    simulate(SMALL, log, truth)
    quiet = SMALL.model_copy(update={"days": 5, "bots": 0})
    seen: list[tuple[int, int]] = []
    summary = simulate(quiet, log, truth, lambda done, days: seen.append((done, days)))
    assert seen == [(n, 5) for n in range(1, 6)]
    assert summary.bot_events == 0
    assert len(list(log.iterdir())) <= 8
    before = contents(log), contents(truth.resolve())

    def stop(done: int, days: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(SMALL, log, truth, stop)
    assert (contents(log), contents(truth.resolve())) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [".versions", "raw", "truth"]
