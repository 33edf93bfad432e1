"""Nothing that breaks a blocking check is published: the last good version stays."""

import shutil
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from monitoring.table_checks import check_staged
from nextbuy.cli import data
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from nextbuy.shop import LabelConfig, SessionConfig
from nextbuy.tables.build import stage_features, stage_labels, stage_sessions
from nextbuy.versioned_table import manifest
from tests.monitoring.small_events import month, publish

DAYS = 8
EVENTS = month(days=DAYS, per_day=150)


@contextmanager
def stage(settings, table):
    if table == "sessions":
        with stage_sessions(settings, SessionConfig()) as staged:
            yield staged
    elif table == "labels":
        with stage_labels(settings, LabelConfig(horizon_days=3)) as staged:
            yield staged
    else:
        with stage_features(settings, [table]) as tables:
            yield next(tables)


def build(settings, table, check=check_staged):
    with stage(settings, table) as staged:
        check(staged, settings)
        staged.publish()


def path(settings, table):
    return (
        getattr(settings, table) if table in ("sessions", "labels") else settings.features / table
    )


def checked(settings):
    return pq.read_table(sorted((settings.reports / "checks").glob("*.parquet"))).to_pandas()


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All but the last day, built through the gate; then the last day's events."""
    settings = Settings(data=tmp_path_factory.mktemp("grown"), memory_limit="1GB", threads=1)
    publish(EVENTS.slice(0, (DAYS - 1) * 150), settings)
    for table in ("sessions", "labels", "user"):
        build(settings, table)
    publish(EVENTS, settings)
    return settings.data


@pytest.fixture
def shop(grown: Path, tmp_path: Path) -> Settings:
    shutil.copytree(grown, tmp_path / "data", symlinks=True)
    return Settings(data=tmp_path / "data", memory_limit="1GB", threads=1)


FAULTS = {
    "sessions": ("NULL AS session_id", "session_id_present"),
    "labels": ("2 AS label", "label_is_0_or_1"),
    "user": ("-n_views - 1 AS n_views", "not_negative"),
}


@pytest.mark.parametrize("table", FAULTS)
def test_a_day_that_breaks_a_rule_leaves_the_last_good_table(table: str, shop: Settings) -> None:
    change, check = FAULTS[table]
    if table != "sessions":
        build(shop, "sessions")
    target = path(shop, table)
    before, good = target.resolve(), manifest(target)

    def spoil_and_check(staged, settings):
        file = staged.new_files[-1]
        column = change.split(" AS ")[1]
        spoiled = duckdb.sql(
            f"SELECT * REPLACE ({change}) FROM read_parquet('{file}', hive_partitioning = false)"
        ).to_arrow_table()
        schema = pq.read_schema(file)
        index = schema.get_field_index(column)
        schema = schema.set(index, schema.field(index).with_nullable(True))
        pq.write_table(spoiled.cast(schema), file)
        check_staged(staged, settings)

    with pytest.raises(NextbuyError, match=check) as refused:
        build(shop, table, spoil_and_check)
    assert "not published" in str(refused.value)
    assert target.resolve() == before
    assert manifest(target) == good
    (folder,) = shop.quarantine.glob(f"check-{table}-*")
    rows = pq.read_table(folder / "rows.parquet")
    assert check in set(rows["reason"].to_pylist())
    assert str(folder) in str(refused.value)
    build(shop, table)
    assert max(manifest(target).days) > max(good.days)


def test_an_increment_is_checked_on_its_new_days_alone(shop: Settings) -> None:
    seen = len(checked(shop))
    build(shop, "sessions")
    new = checked(shop).sort_values("checked_at").iloc[seen:]
    assert set(new["table"]) == {"sessions"}
    assert set(new["severity"]) == {"block"}
    # A session may cross midnight: then the day before is new as well.
    assert new["rows"].max() <= 300 < manifest(shop.sessions).rows


def test_sessions_that_lost_an_event_are_kept_out(shop: Settings) -> None:
    def lose_and_check(staged, settings):
        file = staged.new_files[-1]
        rows = pq.ParquetFile(file).read()
        pq.write_table(rows.slice(1), file)
        check_staged(staged, settings)

    with pytest.raises(NextbuyError, match="rows_complete"):
        build(shop, "sessions", lose_and_check)


def test_the_commands_build_through_the_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path))
    settings = Settings()
    publish(EVENTS.slice(0, 450), settings)
    data.sessionize(None)
    data.features(["user"], data.Engine.DUCKDB)
    assert set(checked(settings)["table"]) == {"sessions", "labels", "user"}
