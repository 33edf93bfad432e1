"""What a view, its versions and a project have in Redis goes with them, and nothing else."""

import pytest
from feast import FeatureService, FeatureStore, Field, RepoConfig
from feast.types import Float64, String

from nextbuy.stores.online.keys import hash_key, head
from nextbuy.stores.online.reader import OnlineReader
from tests.shop import entity
from tests.stores.small_repo import OURS, at, view
from tests.stores.test_online import OURS_ONLINE, simple


def project(folder, name, objects, **registry):
    store = FeatureStore(
        config=RepoConfig(
            project=name,
            provider="local",
            registry={"registry_type": "file", "path": str(folder / f"{name}.db"), **registry},
            repo_path=folder,
            entity_key_serialization_version=3,
            **OURS,
            online_store={**OURS_ONLINE, "packed": True},
        )
    )
    store.apply(objects)
    return store


def served(store, user):
    service = FeatureService(name="all", features=[store.get_feature_view("stats")])
    store.apply([service])
    refs = ["stats:value"]
    found = store.get_online_features(refs, [{"user_id": user}]).to_dict()["value"]
    read = OnlineReader(store, "all").read({"user_id": [user]})
    assert read["stats__value"].to_pylist() == found
    return found[0]


def is_webshop_s(key):
    """By the length of the shopper's id, which stands before it: `web` of `shop` is not."""
    if not key.startswith(head(["user_id"])):
        return key.startswith(b"nextbuy:") and b"webshop" in key
    at = len(head(["user_id"])) + 8
    return key[at + key[at - 4] :] == b"webshop"


@pytest.mark.parametrize("users", [["a", "b"], ["web", "b"], ["shop", "aweb"]])
def test_a_project_whose_name_ends_alike_stays(tmp_path, flushed, users):
    stats = simple(tmp_path, [(user, 1, n) for n, user in enumerate(users)])
    shop, webshop = (project(tmp_path, name, [entity(), stats]) for name in ("shop", "webshop"))
    for store in (shop, webshop):
        store.materialize(at(-1), at(9))
    before = {key: flushed.dump(key) for key in flushed.scan_iter() if is_webshop_s(key)}
    assert len(before) == 2 + 2  # hashes; the clock, and which packed rows are its
    packed = set(flushed.scan_iter(b"nb*"))
    assert len(packed) == 4
    shop.teardown()
    assert {key: flushed.dump(key) for key in before} == before
    assert [served(webshop, user) for user in users] == [0, 1]
    left = set(flushed.scan_iter())
    assert len(left & packed) == 2
    assert left - packed == set(before)


def test_a_view_that_goes_leaves_the_other_project_s(tmp_path, flushed):
    stats = simple(tmp_path, [("a", 1, 7)])
    shop, webshop = (project(tmp_path, name, [entity(), stats]) for name in ("shop", "webshop"))
    for store in (shop, webshop):
        store.materialize(at(-1), at(9))
    shop.apply([], objects_to_delete=[shop.get_feature_view("stats")], partial=False)
    assert served(webshop, "a") == 7
    assert len(list(flushed.scan_iter(b"nb*"))) == 1


def versioned(folder):
    """A view whose schema changed once, each version materialized."""
    stats = simple(folder, [("a", 1, 7)])
    service = FeatureService(name="all", features=[stats])
    on = {"enable_online_feature_view_versioning": True}
    store = project(folder, "shop", [entity(), stats, service], **on)
    store.materialize(at(-1), at(9))
    typed = [Field(name="user_id", dtype=String), Field(name="value", dtype=Float64)]
    changed = view(folder / "t.parquet", schema=typed)
    store.apply([changed, FeatureService(name="all", features=[changed])])
    return store


def test_the_reader_reads_the_current_version(tmp_path, flushed):
    store = versioned(tmp_path)
    assert store.get_feature_view("stats").current_version_number == 1
    reader = OnlineReader(store, "all")
    assert reader.read({"user_id": ["a"]})["stats__value"].to_pylist() == [None]  # not loaded yet
    store.materialize(at(-1), at(9))
    column = OnlineReader(store, "all").read({"user_id": ["a"]})["stats__value"]
    assert (str(column.type), column.to_pylist()) == ("double", [7.0])


def test_the_reader_reads_the_version_that_a_service_names(tmp_path, flushed):
    store = versioned(tmp_path)
    store.materialize(at(-1), at(9))
    first = store.registry.get_feature_view_by_version("stats", "shop", 0)
    first.projection.version_tag = 0
    store.apply([FeatureService(name="first", features=[first])])
    column = OnlineReader(store, "first").read({"user_id": ["a"]})["stats@v0__value"]
    assert (str(column.type), column.to_pylist()) == ("int64", [7])


def test_versions_go_with_their_view(tmp_path, flushed):
    store = versioned(tmp_path)
    store.materialize(at(-1), at(9))
    assert len(list(flushed.scan_iter(b"nb*"))) == 2
    store.teardown()
    assert list(flushed.scan_iter()) == []


def test_keys_are_taken_apart_exactly():
    def key(*parts):
        sizes = b"".join(bytes([2, 0, 0, 0, len(p), 0, 0, 0]) + p for p in parts)
        return sizes

    whole = head(["user_id"]) + key(b"u1") + b"shop"
    assert hash_key(whole) == (("user_id",), ((2, b"u1"),), "shop")
    assert hash_key(head(["b", "a"]) + key(b"", b"shop") + "läden".encode()) == (
        ("a", "b"),
        ((2, b""), (2, b"shop")),
        "läden",
    )
    for other in (b"", b"nextbuy:tables", whole[:12], whole[:20], b"nb123456u1", b"\xff" * 40):
        assert hash_key(other) is None
