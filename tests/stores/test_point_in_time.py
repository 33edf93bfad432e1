"""Our offline store beside stock Feast's DuckDB store, on random histories.

Where stock Feast is known to be wrong the difference is pinned here, with its reason.
"""

import uuid
from datetime import timedelta

import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService, FeatureView, Field, FileSource
from feast.infra.offline_stores.file_source import SavedDatasetFileStorage
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String
from feast.value_type import ValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nextbuy.errors import NextbuyError
from tests.shop import entity
from tests.stores.small_repo import OURS, START, Repo, at, frame, times, view, write_table

STOCK = {"offline_store": {"type": "duckdb"}, "batch_engine": {"type": "local"}}
pytestmark = pytest.mark.usefixtures("data_folder")

KEYS = ["a", "b", "c", "", "ü"]
HOURS = st.integers(0, 30)


@st.composite
def histories(draw):
    """Rows (key, hour, created hour, value), no two of one key with the same stamps."""
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from(KEYS), HOURS, HOURS),
            max_size=25,
            unique=True,
        )
    )
    return [(key, hour, created, number) for number, (key, hour, created) in enumerate(rows)]


@st.composite
def entity_rows(draw, unique=False):
    """Rows (key, hour), now and then all of one hour: those take a plan of their own."""
    hours = st.just(draw(HOURS)) if draw(st.booleans()) else HOURS
    rows = st.tuples(st.sampled_from([*KEYS, "unknown"]), hours)
    return draw(st.lists(rows, min_size=1, max_size=20, unique=unique))


def write_history(folder, rows, files=1, name="t"):
    for part in range(files):
        mine = rows[part::files]
        write_table(
            folder / name / f"day={part}" / "part-0.parquet",
            {
                "user_id": pa.array([r[0] for r in mine], pa.string()),
                "event_timestamp": times([r[1] for r in mine]),
                "created": times([r[2] for r in mine]),
                "value": pa.array([None if r[3] % 5 == 4 else r[3] for r in mine], pa.int64()),
            },
        )
    return folder / name


def by_hand(rows, asked, ttl, cutoff):
    """The definition, spelled out row by row."""
    result = []
    for key, hour in asked:
        seen = [
            (h, created, value)
            for k, h, created, value in rows
            if k == key and h <= hour and (not cutoff or created <= hour)
        ]
        best = max(seen, default=None)
        fresh = best is not None and (ttl is None or hour - best[0] <= ttl)
        result.append(best[2] if fresh and best[2] % 5 != 4 else None)
    return result


def retrieve(repo, entity_df, refs, **kwargs):
    return repo.store.get_historical_features(entity_df, refs, **kwargs).to_df()


def listed(column):
    return [None if pd.isna(value) else value for value in column]


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rows=histories(),
    asked=entity_rows(),
    ttl=st.none() | st.integers(1, 30),
    cutoff=st.booleans(),
    files=st.integers(1, 3),
)
def test_values_by_the_definition(tmp_path, rows, asked, ttl, cutoff, files):
    folder = tmp_path / uuid.uuid4().hex
    path = write_history(folder, rows, files)
    lasting = timedelta(hours=ttl) if ttl else None
    repo = Repo(folder, [entity(), view(path, ttl=lasting, created_timestamp_column="created")])
    asked_frame = frame(asked)
    found = retrieve(repo, asked_frame, ["stats:value"], filter_by_created_timestamp=cutoff)
    assert listed(found["user_id"]) == [key for key, _ in asked]
    assert listed(found["value"]) == by_hand(rows, asked, ttl, cutoff)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    rows=histories().filter(bool),
    others=histories().filter(bool),
    asked=entity_rows(unique=True),
    # Stock cannot add a TTL of mixed units such as 36 hours (Ibis 12 refuses the literal).
    ttl=st.none() | st.sampled_from([timedelta(minutes=30), timedelta(hours=5), timedelta(days=1)]),
    cutoff=st.booleans(),
    full=st.booleans(),
)
def test_equal_to_stock_feast(tmp_path, rows, others, asked, ttl, cutoff, full):
    folder = tmp_path / uuid.uuid4().hex
    # Stock reads one file or a glob; the days' folders would be columns to it.
    write_history(folder, rows)
    write_history(folder, others, name="u")
    views = [
        view(folder / "t/day=0/part-0.parquet", ttl=ttl, created_timestamp_column="created"),
        view(
            folder / "u/day=0/part-0.parquet",
            name="other",
            schema=[Field(name="user_id", dtype=String), Field(name="n", dtype=Int64)],
            field_mapping={"value": "n"},
            created_timestamp_column="created",
        ),
    ]
    refs = ["stats:value", "other:n"]
    results = []
    for number, stores in enumerate((OURS, STOCK)):
        repo = Repo(folder / str(number), [entity(), *views], **stores)
        found = retrieve(
            repo,
            frame(asked),
            refs,
            full_feature_names=full,
            filter_by_created_timestamp=cutoff,
        )
        found = found.sort_values(["user_id", "event_timestamp"]).reset_index(drop=True)
        results.append({name: listed(found[name]) for name in sorted(found.columns)})
    assert results[0] == results[1]


def test_stock_crashes_on_a_ttl_of_mixed_units_and_ours_does_not(tmp_path):
    path = write_history(tmp_path, [("a", 0, 0, 1)])
    views = [entity(), view(path / "day=0/part-0.parquet", ttl=timedelta(hours=36))]
    asked = frame([("a", 36), ("a", 37)])
    with pytest.raises(Exception, match="mixed units"):
        retrieve(Repo(tmp_path / "stock", views, **STOCK), asked, ["stats:value"])
    found = retrieve(Repo(tmp_path / "ours", views), asked, ["stats:value"])
    assert listed(found["value"]) == [1, None]


def test_ties_of_timestamp_and_created_are_broken_the_same_way_by_any_number_of_threads(
    tmp_path, monkeypatch
):
    rows = [("a", 1, 1, n) for n in range(0, 400, 5)] * 30
    path = write_history(tmp_path, rows, files=3)
    found = set()
    for threads in ("1", "2", "4"):
        monkeypatch.setenv("NEXTBUY_THREADS", threads)
        repo = Repo(tmp_path / threads, [entity(), view(path)])
        found |= set(retrieve(repo, frame([("a", 2)] * 50), ["stats:value"])["value"])
    assert len(found) == 1


def test_missing_created_counts_as_earliest(tmp_path):
    path = write_history(tmp_path, [("a", 1, None, 1), ("a", 1, 0, 2)])
    repo = Repo(tmp_path, [entity(), view(path, created_timestamp_column="created")])
    found = retrieve(repo, frame([("a", 2)]), ["stats:value"])
    assert listed(found["value"]) == [2]


def test_an_earlier_row_is_found_while_the_later_one_is_not_known(tmp_path):
    # Row 2 is late, row 3 was known before it: a running record, not the nearest row.
    rows = [("a", 1, 2, 1), ("a", 3, 20, 2), ("a", 5, 6, 3), ("a", 4, 10, 6)]
    path = write_history(tmp_path, rows)
    repo = Repo(tmp_path, [entity(), view(path, created_timestamp_column="created")])
    asked = [("a", h) for h in (1, 2, 3, 5, 6, 10, 20)]
    found = retrieve(repo, frame(asked), ["stats:value"], filter_by_created_timestamp=True)
    assert listed(found["value"]) == [None, 1, 1, 1, 3, 3, 3]


def two_key_repo(folder, **kwargs):
    path = write_table(
        folder / "pairs.parquet",
        {
            "user_id": ["a", "a", "b", None],
            "item_id": pa.array([1, 2, 1, 1], pa.int64()),
            "ts": times([1, 2, 3, 0]),
            "value": pa.array([10, 20, 30, 40], pa.int64()),
        },
    )
    item = entity("item_id", ValueType.INT64)
    pairs = view(
        path,
        "pairs",
        [entity(), item],
        schema=[
            Field(name="user_id", dtype=String),
            Field(name="item_id", dtype=Int64),
            Field(name="value", dtype=Int64),
        ],
        timestamp_field="ts",
    )
    return Repo(folder, [entity(), item, pairs], **kwargs), pairs


def test_two_keys_in_any_order_of_columns_and_null_keys(tmp_path):
    repo, _ = two_key_repo(tmp_path)
    asked = pd.DataFrame(
        {
            "event_timestamp": [at(9)] * 4,
            "item_id": [2, 1, 1, 3],
            "user_id": ["a", "b", None, "a"],
        }
    )
    found = retrieve(repo, asked, ["pairs:value"])
    assert listed(found["value"]) == [20, 30, None, None]


def test_join_key_map_and_alias(tmp_path):
    path = write_history(tmp_path, [("a", 1, 1, 1), ("b", 1, 1, 2)])
    stats = view(path)
    repo = Repo(tmp_path, [entity(), stats])
    seller = stats.with_name("seller").with_join_key_map({"user_id": "seller_id"})
    buyer = stats.with_name("buyer")  # Feast cannot compare a view with and one without an alias
    service = FeatureService(name="both", features=[buyer, seller])
    repo.store.apply([service])
    asked = pd.DataFrame({"user_id": ["a"], "seller_id": ["b"], "event_timestamp": [at(2)]})
    found = retrieve(repo, asked, service, full_feature_names=True)
    assert found[["buyer__value", "seller__value"]].to_numpy().tolist() == [[1, 2]]


def test_view_without_entities(tmp_path):
    path = write_table(
        tmp_path / "g.parquet", {"event_timestamp": times([1, 3]), "value": pa.array([1, 2])}
    )
    shop = view(path, "shop", [], schema=[Field(name="value", dtype=Int64)])
    repo = Repo(tmp_path, [shop])
    asked = pd.DataFrame({"event_timestamp": [at(0), at(2), at(3)]})
    assert listed(retrieve(repo, asked, ["shop:value"])["value"]) == [None, 1, 2]


def on_demand_repo(folder):
    path = write_history(folder, [("a", 1, 1, 1), ("b", 1, 1, 2)])
    stats = view(path)

    @on_demand_feature_view(
        sources=[stats], schema=[Field(name="twice", dtype=Float64)], mode="pandas"
    )
    def doubled(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": inputs["value"] * 2.0})

    return Repo(folder, [entity(), stats, doubled])


def test_on_demand_view_whole_streamed_and_persisted(tmp_path):
    repo = on_demand_repo(tmp_path)
    job = repo.store.get_historical_features(
        frame([("a", 2), ("b", 2), ("c", 2)]), ["stats:value", "doubled:twice"]
    )
    expected = [2.0, 4.0, None]
    assert listed(job.to_df()["twice"]) == expected
    assert listed(job.to_reader(batch_rows=1).read_all()["twice"].to_pylist()) == expected
    job.to_parquet(tmp_path / "out.parquet")
    assert listed(pd.read_parquet(tmp_path / "out.parquet")["twice"]) == expected


@pytest.mark.parametrize("kind", ["pandas", "arrow", "sql", "naive", "text"])
def test_kinds_of_entity_frames(tmp_path, kind):
    path = write_history(tmp_path, [("a", 1, 1, 1), ("b", 3, 3, 2)])
    repo = Repo(tmp_path, [entity(), view(path)])
    rows = frame([("a", 2), ("b", 2)])
    if kind == "arrow":
        rows = pa.Table.from_pandas(rows)
    elif kind == "sql":
        rows.to_parquet(tmp_path / "rows.parquet")
        rows = f"SELECT * FROM '{tmp_path}/rows.parquet';"
    elif kind == "naive":
        rows["event_timestamp"] = rows["event_timestamp"].dt.tz_localize(None)
    elif kind == "text":
        rows["event_timestamp"] = [at(2).isoformat(), "2024-01-01 02:00:00"]
    job = repo.store.get_historical_features(rows, ["stats:value"])
    assert listed(job.to_arrow()["value"].to_pylist()) == [1, None]
    assert job.metadata.keys == ["user_id"]
    assert job.metadata.min_event_timestamp == at(2)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_units_and_zones_of_the_table_s_timestamps(tmp_path, unit, zone):
    moments = pa.array([at(1), at(3)], pa.timestamp("us", "UTC")).cast(pa.timestamp(unit, "UTC"))
    stamps = (
        moments.cast(pa.timestamp(unit)) if zone is None else moments.cast(pa.timestamp(unit, zone))
    )
    path = write_table(
        tmp_path / "t.parquet",
        {"user_id": ["a", "a"], "event_timestamp": stamps, "value": pa.array([1, 2])},
    )
    repo = Repo(tmp_path, [entity(), view(path)])
    found = retrieve(repo, frame([("a", 0), ("a", 1), ("a", 3)]), ["stats:value"])
    assert listed(found["value"]) == [None, 1, 2]


def test_without_an_entity_frame_the_views_own_rows(tmp_path):
    path = write_history(tmp_path, [("a", 1, 1, 1), ("a", 3, 3, 2), ("b", 9, 9, 3)])
    repo = Repo(tmp_path, [entity(), view(path)])
    found = repo.store.get_historical_features(
        features=["stats:value"], start_date=at(1), end_date=at(3)
    ).to_df()
    assert found["value"].tolist() == [1, 2]


def test_saved_dataset(tmp_path):
    path = write_history(tmp_path, [("a", 1, 1, 1), ("b", 1, 1, 2)])
    repo = Repo(tmp_path, [entity(), view(path)])
    job = repo.store.get_historical_features(frame([("a", 2), ("b", 4)]), ["stats:value"])
    storage = SavedDatasetFileStorage(str(tmp_path / "saved"))
    repo.store.create_saved_dataset(job, "training", storage)
    again = repo.store.get_saved_dataset("training").to_df()
    assert sorted(again["value"]) == [1, 2]
    with pytest.raises(Exception, match="exists"):
        job.persist(storage)


def test_rows_are_appended_as_a_file_of_their_own(tmp_path):
    path = write_history(tmp_path, [("a", 1, 1, 1)])
    (path / "day=0/part-0.parquet").rename(path / "part-0.parquet")
    repo = Repo(tmp_path, [entity(), view(path, created_timestamp_column="created")])
    before = (path / "part-0.parquet").stat().st_mtime_ns
    rows = pd.DataFrame(
        {"user_id": ["a"], "event_timestamp": [at(2)], "created": [at(2)], "value": [7]}
    )
    repo.store.write_to_offline_store("stats", rows)
    assert (path / "part-0.parquet").stat().st_mtime_ns == before
    assert listed(retrieve(repo, frame([("a", 3)]), ["stats:value"])["value"]) == [7]


def test_published_table_is_not_appended_to(tmp_path):
    path = write_history(tmp_path, [("a", 1, 1, 1)])
    (path / "manifest.json").write_text("{}")
    repo = Repo(tmp_path, [entity(), view(path, created_timestamp_column="created")])
    rows = pd.DataFrame(
        {"user_id": ["a"], "event_timestamp": [at(2)], "created": [at(2)], "value": [7]}
    )
    with pytest.raises(NextbuyError, match="published"):
        repo.store.write_to_offline_store("stats", rows)


# Bad input


def test_missing_column_names_what_is_there(tmp_path):
    path = write_table(tmp_path / "t.parquet", {"user_id": ["a"], "event_timestamp": times([1])})
    with pytest.raises(NextbuyError, match=r"no column 'value'.*user_id"):
        retrieve(Repo(tmp_path, [entity(), view(path)]), frame([("a", 2)]), ["stats:value"])


def test_files_that_disagree(tmp_path):
    write_table(
        tmp_path / "t/1.parquet",
        {"user_id": ["a"], "event_timestamp": times([1]), "value": pa.array([1])},
    )
    write_table(
        tmp_path / "t/2.parquet",
        {"user_id": ["a"], "event_timestamp": times([2]), "value": pa.array([1.5])},
    )
    repo = Repo(tmp_path, [entity(), view(tmp_path / "t")])
    with pytest.raises(
        NextbuyError, match=r"disagree on the type of 'value': BIGINT in .*DOUBLE in"
    ):
        retrieve(repo, frame([("a", 3)]), ["stats:value"])
    write_table(tmp_path / "t/2.parquet", {"user_id": ["a"], "event_timestamp": times([2])})
    with pytest.raises(NextbuyError, match=r"1 of the 2 files .*lack the column 'value'"):
        retrieve(repo, frame([("a", 3)]), ["stats:value"])


def test_nested_columns_and_columns_without_values_are_no_disagreement(tmp_path):
    for number in range(2):
        write_table(
            tmp_path / f"t/{number}.parquet",
            {
                "texts": pa.array([["x"]], pa.list_(pa.string())),
                "numbers": pa.array([[[1]]], pa.list_(pa.list_(pa.int64()))),
                "both": pa.array([{"value": "x", "n": 1}]),
                "user_id": ["a"],
                "event_timestamp": times([number]),
                "value": pa.array([number], pa.int64()) if number else pa.nulls(1),
            },
        )
    repo = Repo(tmp_path, [entity(), view(tmp_path / "t")])
    assert listed(retrieve(repo, frame([("a", 3)]), ["stats:value"])["value"]) == [1]


def test_key_of_another_type(tmp_path):
    path = write_history(tmp_path, [("a", 1, 1, 1)])
    repo = Repo(tmp_path, [entity(), view(path)])
    with pytest.raises(NextbuyError, match="'user_id' is BIGINT in the entity frame and VARCHAR"):
        retrieve(repo, frame([(1, 2)]), ["stats:value"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (pd.DataFrame({"event_timestamp": [START]}), "lacks the join key 'user_id'"),
        (pd.DataFrame({"user_id": ["a"], "when": ["x"]}), "needs a column 'event_timestamp'"),
        (
            pd.DataFrame({"user_id": ["a"], "event_timestamp": [START], "value": [1]}),
            "'value' twice",
        ),
        (pd.DataFrame({"user_id": ["a", 1], "event_timestamp": [START] * 2}), "mixed types"),
    ],
)
def test_unfit_entity_frames(tmp_path, rows, message):
    path = write_history(tmp_path, [("a", 1, 1, 1)])
    repo = Repo(tmp_path, [entity(), view(path)])
    with pytest.raises(NextbuyError, match=message):
        retrieve(repo, rows, ["stats:value"])


def test_folder_without_files(tmp_path):
    (tmp_path / "empty").mkdir()
    repo = Repo(tmp_path, [entity(), view(tmp_path / "empty")])
    with pytest.raises(NextbuyError, match="holds no Parquet file"):
        retrieve(repo, frame([("a", 2)]), ["stats:value"])


def test_link_glob_and_relative_path(tmp_path):
    path = write_history(tmp_path, [("a", 1, 1, 1)], files=2)
    (tmp_path / "link").symlink_to(path)
    for number, place in enumerate([tmp_path / "link", tmp_path / "t/*/*.parquet", "t"]):
        repo = Repo(tmp_path, [entity(), view(place, name=f"v{number}")])
        found = retrieve(repo, frame([("a", 2)]), [f"v{number}:value"])
        assert listed(found["value"]) == [1]


def test_columns_of_a_folder_leave_the_day_out(tmp_path):
    path = write_history(tmp_path, [("a", 1, 1, 1)])
    source = FileSource(name="s", path=str(path), timestamp_field="event_timestamp")
    inferred = FeatureView(name="inferred", entities=[entity()], source=source)
    repo = Repo(tmp_path, [entity(), inferred])
    names = {field.name for field in repo.store.get_feature_view("inferred").schema}
    assert "value" in names
    assert "day" not in names
