import pyarrow as pa
from feast import FeatureService

from nextbuy.stores.offline.cached import cached_features
from tests.stores.small_repo import Repo, entity, times, view, write_table


def test_a_retrieval_is_run_once_and_then_read_from_its_file(tmp_path):
    path = write_table(
        tmp_path / "stats" / "part.parquet",
        {"user_id": ["a", "a"], "value": [1, 2], "event_timestamp": times([0, 5])},
    )
    stats = view(path)
    service = FeatureService(name="s", features=[stats])
    store = Repo(tmp_path, [entity(), stats, service]).store
    file, calls = tmp_path / "kept" / "digest.parquet", []

    def rows():
        calls.append("rows")
        return pa.table({"user_id": ["a", "a"], "event_timestamp": times([3, 6]), "n": [7, 8]})

    def finish(retrieved):
        return retrieved.select(["n", "stats__value"]).sort_by("n")

    first = cached_features(file, store, service, rows, finish)
    assert first.to_pydict() == {"n": [7, 8], "stats__value": [1, 2]}
    assert cached_features(file, store, service, rows, finish).equals(first)
    assert calls == ["rows"]
    assert [f.name for f in file.parent.iterdir()] == [file.name]
