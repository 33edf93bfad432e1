"""The latest row of each key, as materialization pulls it."""

import uuid
from datetime import timedelta

import pyarrow as pa
import pytest
from feast import FileSource
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.shop import entity
from tests.stores.small_repo import Repo, at, times, view, write_table

pytestmark = pytest.mark.usefixtures("data_folder")
HOURS = st.integers(0, 12)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abc"), HOURS, HOURS | st.none()), min_size=1, max_size=20
    ),
    bounds=st.tuples(HOURS, HOURS).map(sorted),
    with_created=st.booleans(),
    files=st.integers(1, 3),
)
def test_latest_of_each_key_by_the_definition(tmp_path, rows, bounds, with_created, files):
    folder = tmp_path / uuid.uuid4().hex
    for part in range(files):
        mine = [(n, *row) for n, row in enumerate(rows)][part::files]
        write_table(
            folder / f"{part}.parquet",
            {
                "user_id": pa.array([r[1] for r in mine], pa.string()),
                "event_timestamp": times([r[2] for r in mine]),
                "created": times([r[3] for r in mine]),
                "value": pa.array([r[0] for r in mine], pa.int64()),
            },
        )
    first, last = bounds
    found = pull(folder, "created" if with_created else None, first, last)
    newest = {}
    for number, (key, hour, created) in enumerate(rows):
        if first <= hour <= last:
            tie = -1 if created is None else created
            rank = (hour, tie if with_created else 0, number % files, number // files)
            newest[key] = max(newest.get(key, ((-1,), 0)), (rank, number))
    expected = sorted((key, number) for key, (_, number) in newest.items())
    assert sorted((row["user_id"], row["value"]) for row in found) == expected


def pull(folder, created, first, last):
    repo = Repo(folder, [entity(), view(folder / "*.parquet")])
    provider = repo.store.provider
    job = provider.offline_store.pull_latest_from_table_or_query(
        config=repo.store.config,
        data_source=FileSource(path=str(folder / "*.parquet"), timestamp_field="event_timestamp"),
        join_key_columns=["user_id"],
        feature_name_columns=["value"],
        timestamp_field="event_timestamp",
        created_timestamp_column=created,
        start_date=at(first),
        end_date=at(last),
    )
    wanted = ["user_id", "value", "event_timestamp", *([created] if created else [])]
    assert job.to_arrow().column_names == wanted
    return job.to_arrow().to_pylist()


def test_streams_the_same_rows(tmp_path):
    write_table(
        tmp_path / "t.parquet",
        {
            "user_id": [f"u{i}" for i in range(1000)],
            "event_timestamp": times([1] * 1000),
            "value": pa.array(range(1000)),
        },
    )
    repo = Repo(tmp_path, [entity(), view(tmp_path / "t.parquet")])
    job = repo.store.provider.offline_store.pull_all_from_table_or_query(
        config=repo.store.config,
        data_source=FileSource(path=str(tmp_path / "t.parquet"), timestamp_field="event_timestamp"),
        join_key_columns=["user_id"],
        feature_name_columns=["value"],
        timestamp_field="event_timestamp",
        start_date=at(0),
        end_date=at(0) + timedelta(hours=1),
    )
    batches = list(job.to_reader(batch_rows=100))
    assert len(batches) > 1
    assert pa.Table.from_batches(batches).equals(job.to_arrow())
