from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from monitoring.checks import check_events, raise_if_blocked, write_docs
from monitoring.config import MonitoringConfig, load_config
from nextbuy.errors import NextbuyError
from nextbuy.events import EventType
from nextbuy.settings import Settings
from tests.monitoring.small_events import NOW, START, month, save, with_values

Spoil = Callable[[pa.Table], pa.Table]


def _value(column: str, value: object, rows: int = 3) -> Spoil:
    return lambda table: with_values(table, column, range(100, 100 + rows), value)


def _only_purchases(table: pa.Table) -> pa.Table:
    with_item = table.filter(pc.is_valid(table["item_id"]))
    return with_values(with_item, "event_type", range(with_item.num_rows), "purchase")


def _without_day(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table[:4500], table[6000:]])


def _thin_day(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table[:4600], table[6000:]])


def _day_again_under_new_ids(table: pa.Table) -> pa.Table:
    day = table[3000:4500]
    fresh = pa.array([f"again{i}" for i in range(day.num_rows)])
    return pa.concat_tables([table, day.set_column(0, table.schema.field(0), fresh)])


def _crawler(table: pa.Table) -> pa.Table:
    return with_values(table, "user_id", range(3000, 3700), "crawler")


BLOCKED: dict[str, tuple[str, Spoil]] = {
    "a column lost": ("columns_as_declared", lambda t: t.drop_columns(["brand"])),
    "a column added": ("columns_as_declared", lambda t: t.append_column("x", t["price"])),
    "a type changed": (
        "types_as_declared",
        lambda t: t.set_column(7, "price", t["price"].cast(pa.float64())),
    ),
    "nothing there": ("has_rows", lambda t: t[:0]),
    "id missing": ("event_id_present", _value("event_id", None)),
    "id empty": ("event_id_present", _value("event_id", "")),
    "id repeated": ("event_id_unique", _value("event_id", "e7")),
    "user missing": ("user_id_present", _value("user_id", None)),
    "time missing": ("event_time_present", _value("event_time", None)),
    "type missing": ("event_type_present", _value("event_type", None)),
    "type unknown": ("event_type_known", _value("event_type", "wishlist")),
    "time in the future": ("event_time_plausible", _value("event_time", NOW + timedelta(days=9))),
    "time long ago": ("event_time_plausible", _value("event_time", START.replace(year=1970))),
    "item missing": ("item_present", _value("item_id", None, rows=60)),
    "price negative": ("price_plausible", _value("price", -1)),
    "price absurd": ("price_plausible", _value("price", 10**13)),
    "discount negative": ("discount_plausible", _value("discount", -1)),
    "text too long": ("text_bounded", _value("brand", "b" * 300)),
}
WARNED: dict[str, tuple[str, Spoil]] = {
    "free purchases": (
        "purchase_priced",
        lambda t: with_values(_only_purchases(t), "price", range(400), 0),
    ),
    "one event type only": ("event_mix", _only_purchases),
    "a day missing": ("days_complete", _without_day),
    "a day in part": ("day_volume", _thin_day),
    "a day twice": ("events_not_repeated", _day_again_under_new_ids),
    "a crawler": ("no_dominant_user", _crawler),
}


def test_clean_events_break_no_rule(settings: Settings, tmp_path: Path) -> None:
    report = check_events(save(month(), tmp_path), settings, config=MonitoringConfig(), now=NOW)
    assert [str(r) for r in report.results if not r.passed] == []
    raise_if_blocked(report)
    assert report.rows == 15_000


def test_a_shop_that_grew_is_not_wrong_about_its_beginnings(
    settings: Settings, tmp_path: Path
) -> None:
    days, most = 40, 900
    kept = [day * most + i for day in range(days) for i in range(int(20 * 1.1**day))]
    config = MonitoringConfig.model_validate({"events": {"min_rows": 20}})
    file = save(month(days, most).take(kept), tmp_path)
    report = check_events(file, settings, config=config, now=NOW + timedelta(days=30))
    assert "day_volume" not in {result.check for result in report.warnings}


PER_DAY = {"day_volume", "days_complete", "events_not_repeated", "no_dominant_user"}


def test_what_has_too_little_to_judge_is_not_applied_and_no_pass(
    settings: Settings, tmp_path: Path
) -> None:
    """A shop of 650 events a day, of which a week is missing."""
    events = month(days=30, per_day=650)
    holed = pa.concat_tables([events[: 10 * 650], events[17 * 650 :]])
    report = check_events(save(holed, tmp_path), settings, config=MonitoringConfig(), now=NOW)
    not_applied = {r.check: r.observed for r in report.not_applied}
    assert not_applied.keys() == PER_DAY
    assert not_applied["days_complete"] == (
        "not applied, 650 events a day at the median, it takes 1,000"
    )
    assert all("650 events" in why and "it takes 1,000" in why for why in not_applied.values())
    applied = len(report.results) - len(PER_DAY)
    assert report.tally == f"{applied} of {applied} checks, 4 too small to judge"
    kept = pq.read_table(settings.reports / "checks").to_pydict()
    passed = dict(zip(kept["rule"], kept["passed"], strict=True))
    assert {rule for rule, outcome in passed.items() if outcome is None} == PER_DAY
    write_docs([report], settings)
    page = (settings.reports / "data_docs" / "events.html").read_text()
    assert "Not applied" in page
    assert "it takes 1,000" in page


def test_a_check_says_which_days_were_too_small_for_it(settings: Settings, tmp_path: Path) -> None:
    few = month(days=12, per_day=1500)
    thinned = few.take([*range(9 * 1500), *range(9 * 1500, 12 * 1500, 3)])
    report = check_events(save(thinned, tmp_path), settings, config=MonitoringConfig(), now=NOW)
    observed = {r.check: r.observed for r in report.results}
    assert observed["no_dominant_user"].endswith("3 of 12 days too small to judge")
    assert "too small" not in observed["days_complete"]


def test_a_single_day_has_no_days_to_compare(settings: Settings, tmp_path: Path) -> None:
    file = save(month(days=3, per_day=1500), tmp_path)
    report = check_events(file, settings, config=MonitoringConfig(), now=NOW)
    (volume,) = report.not_applied
    assert str(volume) == (
        "day_volume (event_time): not applied, 1 whole days, it takes 6 beside each."
    )


@pytest.mark.parametrize("fault", BLOCKED)
def test_a_planted_fault_is_blocked(fault: str, settings: Settings, tmp_path: Path) -> None:
    check, spoil = BLOCKED[fault]
    report = check_events(
        save(spoil(month()), tmp_path), settings, config=MonitoringConfig(), now=NOW
    )
    assert check in {result.check for result in report.blocking}
    with pytest.raises(NextbuyError, match=check):
        raise_if_blocked(report)


@pytest.mark.parametrize("fault", WARNED)
def test_a_suspicious_batch_is_told_but_passes(
    fault: str, settings: Settings, tmp_path: Path
) -> None:
    check, spoil = WARNED[fault]
    report = check_events(
        save(spoil(month()), tmp_path), settings, config=MonitoringConfig(), now=NOW
    )
    assert check in {result.check for result in report.warnings}
    raise_if_blocked(report)


def test_the_message_names_rule_column_count_and_remedy(settings: Settings, tmp_path: Path) -> None:
    file = save(with_values(month(), "price", range(40, 47), -5), tmp_path)
    report = check_events(file, settings, config=MonitoringConfig(), now=NOW)
    with pytest.raises(NextbuyError) as error:
        raise_if_blocked(report)
    text = str(error.value)
    for part in ("price_plausible", "(price)", "7 rows (0.05%)", "-5", "correct its mapping"):
        assert part in text
    assert str(report.quarantine) in text


def test_failing_rows_go_to_quarantine_under_the_rule(settings: Settings, tmp_path: Path) -> None:
    file = save(with_values(month(), "price", range(40, 47), -5), tmp_path)
    report = check_events(file, settings, config=MonitoringConfig(), now=NOW)
    again = check_events(file, settings, config=MonitoringConfig(), now=NOW)
    assert report.quarantine is not None
    assert again.quarantine == report.quarantine
    rows = duckdb.execute(
        f"SELECT reason, \"column\", raw ->> 'event_id' AS id "
        f"FROM '{report.quarantine}/rows.parquet' ORDER BY id"
    ).fetchall()
    assert rows == [("price_plausible", "price", f"e{i}") for i in range(40, 47)]


def test_severity_and_tolerance_come_from_the_configuration(
    settings: Settings, tmp_path: Path
) -> None:
    file = save(with_values(month(), "price", range(40, 47), -5), tmp_path)
    lenient = MonitoringConfig.model_validate(
        {"checks": {"events": {"price_plausible": {"tolerance": 0.01}}}}
    )
    warned = MonitoringConfig.model_validate(
        {"checks": {"events": {"price_plausible": {"severity": "warn"}}}}
    )
    assert not check_events(file, settings, config=lenient, now=NOW).blocking
    report = check_events(file, settings, config=warned, now=NOW)
    assert [r.check for r in report.warnings] == ["price_plausible"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ({"prize_plausible": {"severity": "warn"}}, "prize_plausible is no check of events"),
        ({"event_mix": {"tolerance": 0.1}}, "event_mix takes no tolerance"),
    ],
)
def test_a_wrong_override_is_refused(
    override: dict[str, object], message: str, settings: Settings, tmp_path: Path
) -> None:
    config = MonitoringConfig.model_validate({"checks": {"events": override}})
    with pytest.raises(NextbuyError, match=message):
        check_events(save(month(1), tmp_path), settings, config=config, now=NOW)


def test_bounds_follow_the_configuration(settings: Settings, tmp_path: Path) -> None:
    config = MonitoringConfig.model_validate(
        {"events": {"shares": {EventType.VIEW.value: (0.9, 1.0)}}}
    )
    report = check_events(save(month(), tmp_path), settings, config=config, now=NOW)
    assert [r.check for r in report.warnings] == ["event_mix"]


def test_what_is_no_parquet_is_named(settings: Settings, tmp_path: Path) -> None:
    bad = tmp_path / "bad.parquet"
    bad.write_text("event_id,user_id")
    with pytest.raises(NextbuyError, match=r"bad\.parquet"):
        check_events(bad, settings, now=NOW)
    with pytest.raises(NextbuyError, match=r"absent\.parquet"):
        check_events(tmp_path / "absent.parquet", settings, now=NOW)


def test_every_run_adds_its_rows_to_the_series(settings: Settings, tmp_path: Path) -> None:
    file = save(month(2), tmp_path)
    for hour in range(3):
        check_events(file, settings, config=MonitoringConfig(), now=NOW + timedelta(hours=hour))
    kept = pq.read_table(settings.reports / "checks")
    assert len(set(kept["checked_at"].to_pylist())) == 3
    assert np.unique(kept["rule"].to_pylist(), return_counts=True)[1].tolist() == [3] * (
        kept.num_rows // 3
    )


def test_a_folder_of_days_is_read_whole_and_without_its_partition(
    settings: Settings, tmp_path: Path
) -> None:
    for number in (1, 2):
        save(
            with_values(month(1, seed=number), "event_id", [], None),
            tmp_path / f"day=2024-01-0{number}",
        )
    report = check_events(tmp_path, settings, config=MonitoringConfig(), now=NOW)
    assert report.rows == 3000
    assert [r.check for r in report.blocking] == ["event_id_unique"]  # not columns_as_declared


def test_the_shipped_configuration_is_valid() -> None:
    load_config()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chekcs: {}", "chekcs"),
        ("events: {volume_factor: 0.5}", "volume_factor"),
        ("checks: [", "monitoring.yaml is not valid YAML"),
    ],
)
def test_a_wrong_configuration_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "monitoring.yaml"
    file.write_text(text)
    with pytest.raises(NextbuyError, match=message):
        load_config(file)
