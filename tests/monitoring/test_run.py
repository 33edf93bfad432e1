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
from nextbuy.shop import LabelConfig, SessionConfig
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
    days = said["unusual_days"]
    assert days.status == "ok"
    assert days.message.endswith("looks like the days before it. Alert from 1 on.")
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
    assert [f.status for f in after.findings if f.subject == "freshness"] == ["silenced"]
    (shop.data / "alerts.yaml").unlink()


def line(report, subject):
    (finding,) = (finding for finding in report.findings if finding.subject == subject)
    return finding


def test_a_line_is_judged_by_its_own_bound_and_an_alert_is_printed_once(shop, caplog):
    late = monitor(shop, newest_event(shop) + timedelta(days=9, hours=1))
    freshness = line(late, "freshness")
    assert freshness.status == "ALERT"
    assert "The newest event is 9 days old" in freshness.message
    assert "from 36 hours on until below 24 hours" in freshness.message
    assert "nextbuy daily LOG" in freshness.message
    assert str(late).count("The newest event") == 1
    assert not caplog.records
    assert late.exit_code == 1

    nine_years = monitor(shop, newest_event(shop) + timedelta(days=3281))
    assert "3,281 days old" in line(nine_years, "freshness").message
    assert "Is this a log of the past? Then: nextbuy monitor --at newest" in str(nine_years)

    again = monitor(shop, newest_event(shop))
    freshness = line(again, "freshness")
    assert freshness.status == "recovering"
    assert "0 hours old" in freshness.message
    assert "It has recovered: the alert ends after 1 more such run." in freshness.message
    assert "nextbuy daily LOG" not in freshness.message
    assert "freshness" not in {alert.name for alert in again.raised}

    ended = line(monitor(shop, newest_event(shop)), "freshness")
    assert ended.status == "ok"
    assert "Alert from 36 hours on." in ended.message
    assert ended.message.endswith("has ended.")
    assert line(monitor(shop, newest_event(shop)), "freshness").message.endswith("36 hours on.")


def test_what_was_not_looked_at_is_not_ok(shop, monkeypatch):
    monkeypatch.setenv("NEXTBUY_SERVICE_URL", "http://127.0.0.1:9")
    report = monitor(shop, newest_event(shop))
    assert line(report, "latency").status == "not applied"
    assert line(report, "served").status == "not applied"
    by_table = {f.subject: f.message for f in report.findings if f.status == "ok"}
    assert "too small to judge" in by_table["events"]
    small = [f.message for f in report.findings if f.status == "not applied"]
    assert any("days_complete" in message and "300 events a day" in message for message in small)


def test_days_of_a_tiny_shop_are_not_compared(tmp_path):
    settings = Settings(data=tmp_path, memory_limit="1GB", threads=1)
    publish(month(days=40, per_day=20), settings)
    build_sessions(settings, SessionConfig())
    days = line(monitor(settings, newest_event(settings)), "days")
    assert days.status == "not applied"
    assert "20 events a day at the median are too few" in days.message


def test_a_gap_before_stray_events_is_named_and_so_is_what_to_do(tmp_path):
    settings = Settings(data=tmp_path, memory_limit="1GB", threads=1)
    events = month(days=20, per_day=300)
    strays = events.slice(0, 2)
    later = pa.array([datetime(2024, 3, 21, 12, tzinfo=UTC)] * 2, pa.timestamp("us", "UTC"))
    for name, column in (("event_time", later), ("event_id", pa.array(["late1", "late2"]))):
        field = strays.schema.field(name)
        strays = strays.set_column(strays.column_names.index(name), field, column)
    publish(pa.concat_tables([events, strays]), settings)
    build_sessions(settings, SessionConfig())
    gap = line(monitor(settings, newest_event(settings)), "gap")
    assert gap.status == "ALERT"
    assert "no event from 2024-01-21 to 2024-03-20 (60 days); 2 come after it" in gap.message
    assert "limits.not_after in the source file" in gap.message
    assert "with --replace" in gap.message
    whole = tmp_path / "whole"
    settings = Settings(data=whole, memory_limit="1GB", threads=1)
    publish(pa.concat_tables([strays_first(strays), events]), settings)
    build_sessions(settings, SessionConfig())
    assert line(monitor(settings, newest_event(settings)), "gap").status == "ok"


def strays_first(strays):
    """The same strays from long before the log, as real logs have a few."""
    early = pa.array([datetime(2023, 11, 1, tzinfo=UTC)] * 2, pa.timestamp("us", "UTC"))
    place = strays.column_names.index("event_time")
    return strays.set_column(place, strays.schema.field("event_time"), early)


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
