from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monitoring.checks import run_checks
from monitoring.config import MonitoringConfig
from monitoring.table_checks import check_published, suites
from nextbuy.connection import duckdb_connection
from nextbuy.prediction_log import PREDICTION_SCHEMA, read_predictions, write_predictions
from nextbuy.settings import Settings
from nextbuy.shop import LabelConfig, SessionConfig
from tests.monitoring.small_events import NOW, month, publish
from tests.tables import build_features, build_labels, build_sessions

CONFIG = MonitoringConfig()


def predictions(n: int = 200) -> pa.Table:
    rng = np.random.default_rng(5)
    return pa.table(
        {
            "request_id": [f"r{i // 4}" for i in range(n)],
            "predicted_at": pa.array([NOW] * n, pa.timestamp("us", "UTC")),
            "as_of": pa.array([NOW] * n, pa.timestamp("us", "UTC")),
            "state": ["open"] * n,
            "touched_at": pa.array([NOW] * n, pa.timestamp("us", "UTC")),
            "user_id": [f"u{i // 4}" for i in range(n)],
            "item_id": [f"i{i % 4}" for i in range(n)],
            "probability": rng.random(n),
            "rank": pa.array([i % 4 + 1 for i in range(n)], pa.int32()),
            "model": ["nextbuy:1"] * n,
            "is_shadow": [False] * n,
            "is_degraded": [False] * n,
            "has_reasons": [False] * n,
            "read_at": pa.array([NOW] * n, pa.timestamp("us", "UTC")),
            "has_context": [False] * n,
            "vector": pa.array([[1.0, 2.0]] * n, pa.list_(pa.float32())),
        },
        schema=PREDICTION_SCHEMA,
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Everything published, from ten days of events."""
    settings = Settings(data=tmp_path_factory.mktemp("shop"), memory_limit="1GB", threads=1)
    publish(month(days=10, per_day=200), settings)
    build_sessions(settings, SessionConfig())
    build_features(settings)
    build_labels(settings, LabelConfig(horizon_days=3))
    write_predictions(settings, predictions(), "test", 1)
    return settings


def spoiled(shop: Settings, table: str, change: str, where: str, target: Path) -> set[str]:
    """The blocking checks that break when `change` is made in the rows `where`."""
    suite = next(suite for suite in suites(shop, CONFIG, NOW) if suite.table == table)
    given = [suite.files] if isinstance(suite.files, str) else list(map(str, suite.files))
    column = change.split(" AS ")[-1]
    new = change.removesuffix(f" AS {column}")
    with duckdb_connection(shop) as connection:
        connection.execute(
            f"COPY (SELECT * REPLACE (CASE WHEN {where} THEN {new} ELSE {column} END AS {column}) "
            f"FROM (SELECT *, row_number() OVER () AS nr FROM read_parquet({given}, "
            f"hive_partitioning = false))) TO '{target}/with_nr.parquet'"
        )
        connection.execute(
            f"COPY (SELECT * EXCLUDE (nr) FROM '{target}/with_nr.parquet') "
            f"TO '{target}/spoiled.parquet'"
        )
    report = run_checks(table, target / "spoiled.parquet", suite.checks, shop, CONFIG, NOW)
    return {result.check for result in report.blocking}


def test_what_the_stages_publish_breaks_no_blocking_rule(shop: Settings) -> None:
    reports = check_published(shop, CONFIG, NOW)
    assert [str(r) for report in reports for r in report.blocking] == []
    assert [report.table for report in reports] == [
        "events", "sessions", "user", "session", "item", "category", "user_item", "recent_items",
        "last_event", "labels", "predictions",
    ]  # fmt: skip


FAULTS = {
    "session without id": ("sessions", "NULL AS session_id", "nr = 7", "session_id_present"),
    "session from later": (
        "sessions", "event_time + INTERVAL 1 SECOND AS session_start", "nr = 7", "starts_before",
    ),
    "session of days": (
        "sessions", "session_start - INTERVAL 2 DAY AS session_start", "nr = 7", "within_gap",
    ),
    "bot unknown": ("sessions", "NULL AS is_bot", "nr = 7", "bot_known"),
    "number twice": (
        "sessions", "0 AS event_number", "event_number <= 2", "one_row_per_key",
    ),
    "label of 2": ("labels", "2 AS label", "label = 0 AND nr % 2 = 0", "label_is_0_or_1"),
    "label too early": ("labels", "0 AS label", "label IS NULL", "matured_or_open"),
    "label withheld": ("labels", "NULL AS label", "label = 1", "matured_or_open"),
    "label leaks": ("labels", "event_timestamp AS known_at", "nr = 9", "known_after"),
    "bought in no session": (
        "labels", "NULL AS next_session_start", "label = 1", "bought_in_a_session_that_came",
    ),
    "came back before": (
        "labels", "event_timestamp - INTERVAL 1 DAY AS next_session_start",
        "next_session_start IS NOT NULL", "next_session_later",
    ),
    "label row twice": ("labels", "'i1' AS item_id", "true", "one_row_per_key"),
    "shopper missing": ("user", "NULL AS user_id", "nr = 3", "user_id_present"),
    "count negative": ("user", "-1 AS n_views", "nr = 3", "not_negative"),
    "window wider": ("item", "n_views_30d + 1 AS n_views_7d", "nr = 3", "windows_nested"),
    "not a number": ("user_item", "'nan'::DOUBLE AS rate_events_session", "nr = 3", "finite"),
    "written before it was": (
        "category", "event_timestamp - INTERVAL 1 SECOND AS created_timestamp", "nr = 3",
        "known_when_created",
    ),
    "from the future": (
        "session", "event_timestamp + INTERVAL 40 DAY AS event_timestamp", "nr = 3",
        "nothing_from_the_future",
    ),
    "moment twice": (
        "recent_items", "TIMESTAMPTZ '2024-01-02' AS event_timestamp", "true", "one_row_per_key",
    ),
    "probability of 2": ("predictions", "2 AS probability", "nr = 3", "probability_in_bounds"),
    "probability not a number": (
        "predictions", "'nan'::DOUBLE AS probability", "nr = 3", "probability_in_bounds",
    ),
    "rank 0": ("predictions", "0 AS rank", "nr = 3", "rank_from_1"),
    "answered twice": ("predictions", "'i0' AS item_id", "true", "one_row_per_key"),
    "vector cut": ("predictions", "[1.0]::FLOAT[] AS vector", "nr = 3", "vector_length"),
    "clock ahead": (
        "predictions", "predicted_at + INTERVAL 2 DAY AS predicted_at", "nr = 3",
        "predicted_in_the_past",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_breaks_its_rule(fault: str, shop: Settings, tmp_path: Path) -> None:
    table, change, where, check = FAULTS[fault]
    assert check in spoiled(shop, table, change, where, tmp_path)


def test_sessions_of_other_events_are_refused(shop: Settings, tmp_path: Path) -> None:
    suite = next(suite for suite in suites(shop, CONFIG, NOW) if suite.table == "sessions")
    rows = pq.read_table(sorted(shop.sessions.glob("day=*/*.parquet")), partitioning=None)
    pq.write_table(rows[:-1], tmp_path / "short.parquet")
    report = run_checks("sessions", tmp_path / "short.parquet", suite.checks, shop, CONFIG, NOW)
    assert [result.check for result in report.blocking] == ["rows_complete"]


def test_a_prediction_file_being_written_is_not_read(shop: Settings) -> None:
    half = shop.predictions / f"day={NOW.date()}" / ".test-2.parquet"
    half.write_bytes(b"PAR1")
    try:
        assert check_published(shop, CONFIG, NOW)[-1].rows == 200
    finally:
        half.unlink()


def test_a_log_from_before_parity_is_read_and_said_to_be(settings: Settings) -> None:
    folder = settings.predictions / f"day={NOW.date()}"
    folder.mkdir(parents=True)
    old = predictions().drop_columns(["read_at", "has_context", "request_id"])
    old = old.append_column("request_id", pa.array([f"old{i // 4}" for i in range(old.num_rows)]))
    pq.write_table(old, folder / "old-1.parquet")
    (report,) = check_published(settings, CONFIG, NOW)
    assert report.blocking == []
    assert [result.check for result in report.warnings] == ["comparable_live"]
    write_predictions(settings, predictions(), "new", 1)
    (report,) = check_published(settings, CONFIG, NOW)
    assert report.blocking == []
    assert [(r.check, r.unexpected) for r in report.warnings if r.check == "comparable_live"] == [
        ("comparable_live", 200)
    ]
    assert read_predictions(settings).num_rows == 400


def test_nothing_published_gives_nothing_to_check(settings: Settings) -> None:
    assert check_published(settings, CONFIG, NOW) == []
