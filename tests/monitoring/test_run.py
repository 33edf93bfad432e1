from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from monitoring import reports
from monitoring.performance import unsettled_since
from monitoring.run import monitor, newest_event
from nextbuy.prediction_log import write_predictions
from nextbuy.settings import Settings
from nextbuy.tables.labels import LabelConfig
from nextbuy.tables.sessions import SessionConfig
from tests.monitoring.small_events import month, publish
from tests.monitoring.test_table_checks import predictions
from tests.tables import build_labels, build_sessions


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Forty days of events and a few served predictions, no model."""
    settings = Settings(data=tmp_path_factory.mktemp("shop"), memory_limit="1GB", threads=1)
    publish(month(days=40, per_day=300), settings)
    build_sessions(settings, SessionConfig())
    build_labels(settings, LabelConfig(horizon_days=3))
    write_predictions(settings, predictions(), "test", 1)
    return settings


def test_what_cannot_be_looked_at_fails_and_the_rest_is_still_looked_at(shop):
    report = monitor(shop, newest_event(shop))
    assert report.exit_code == 1
    said = {finding.subject: finding for finding in report.findings}
    assert said["model"].status == "fail"
    assert "nextbuy train" in said["model"].message
    assert said["days"].message.endswith("looks like the days before it.")
    assert said["freshness"].status == "ok"
    assert "200 are enough" not in said["served"].message
    assert report.raised == [a for a in report.alerts if a.level == "fail" and a.is_raised]


def test_an_old_log_raises_freshness_until_someone_silences_it(shop):
    late = newest_event(shop) + timedelta(days=9)
    raised = {alert.name for alert in monitor(shop, late).raised}
    assert "freshness" in raised
    (shop.data / "alerts.yaml").write_text("silenced: [{alert: freshness, until: 2099-01-01}]")
    after = monitor(shop, late)
    assert "freshness" not in {alert.name for alert in after.raised}
    assert "silenced freshness since" in str(after)


def test_a_spoiled_state_file_is_no_green_light(shop):
    shop.reports.mkdir(parents=True, exist_ok=True)
    (shop.reports / "alerts.json").write_text("{")
    report = monitor(shop, newest_event(shop))
    assert report.exit_code == 1
    assert "alerts.json is damaged" in str(report)
    (shop.reports / "alerts.json").unlink()


def test_a_week_whose_outcomes_are_known_is_measured_once(tmp_path):
    settings = Settings(data=tmp_path, memory_limit="1GB", threads=1)
    publish(month(days=40, per_day=300), settings)
    build_sessions(settings, SessionConfig())
    build_labels(settings, LabelConfig(horizon_days=3))
    mondays = [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 8, 15)]
    last = datetime(2024, 2, 9, 12, tzinfo=UTC)
    for number, moment in enumerate([*mondays, last]):
        asked = predictions()
        times = pa.array([moment + timedelta(hours=1)] * len(asked), pa.timestamp("us", "UTC"))
        for name in ("predicted_at", "read_at"):
            asked = asked.set_column(asked.column_names.index(name), name, times)
        write_predictions(settings, asked, "test", number)
    assert unsettled_since(settings) is None
    monitor(settings, newest_event(settings), pages=False)
    assert unsettled_since(settings) == datetime(2024, 2, 5, tzinfo=UTC)
    monitor(settings, newest_event(settings), pages=False)
    first, second = (
        pq.read_table(file).filter(pc.field("origin") == "served")
        for file in sorted(reports.folder(settings, reports.PERFORMANCE).glob("*.parquet"))
    )
    assert first["week"].to_pylist() == [*mondays, datetime(2024, 2, 5, tzinfo=UTC)]
    assert second.drop_columns("measured_at") == first[3:].drop_columns("measured_at")
    assert "estimated" not in first["state"].to_pylist()[:3]
