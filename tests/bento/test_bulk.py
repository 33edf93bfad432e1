from datetime import timedelta

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from bento.bulk import SCORE_SCHEMA, score
from nextbuy.errors import NextbuyError
from nextbuy.settings import Settings
from tests.bento.small_shop import AT, ITEMS, contract, fitted, objects, publish, rows
from tests.shop import register

NEWEST = AT + timedelta(days=1)


JUST = NEWEST - timedelta(days=30)
"""The horizon of what was touched then ends with the newest event."""
OVER = JUST - timedelta(microseconds=1)


def touched(moment, **users):
    return pd.DataFrame(
        {"user_id": user, "item_id": item, "n_views": 3, "event_timestamp": moment}
        for user, items in users.items()
        for item in items
    )


@pytest.fixture(scope="module")
def booster():
    return fitted("xgboost")


@pytest.fixture(scope="module")
def shop(settings, booster):
    register(settings, booster, contract())
    FeatureStore(repo_path=str(settings.feature_repo)).apply(objects(settings.features))
    tables = rows()
    price_rises = tables["item"].assign(event_timestamp=NEWEST + timedelta(hours=1), price=9)
    tables["item"] = pd.concat([tables["item"], price_rises])
    many = {f"s{n:02d}": ITEMS[n : n + 3] for n in range(30)}
    tables["user_item"] = pd.concat(
        [
            touched(OVER, u1=["i009"], u2=["i002"]),
            touched(JUST, u2=["i008"], **many),
            touched(NEWEST, u1=["i003", "i008", "i050"]),
            touched(NEWEST + timedelta(hours=1), u2=["i001"]),
        ]
    )
    for name, frame in tables.items():
        publish(settings.features / name, frame)
    newest_us = int(NEWEST.timestamp() * 1e6)
    publish(settings.sessions, tables["user"], {"newest_us": newest_us})
    return settings


def read(scores):
    return pq.read_table(sorted(scores.folder.glob("part-*.parquet")))


def test_scores_are_the_boosters_for_the_features_as_of_the_newest_event(shop, booster):
    import xgboost

    found = score(shop, at=NEWEST)
    table = read(found)
    assert (found.as_of, found.expired) == (NEWEST, 2)
    assert table.schema == SCORE_SCHEMA
    given = [r for r in table.to_pylist() if r["user_id"] == "u1"]
    vectors = {"i003": [3, 5, 3, 1, 3], "i008": [3, 5, 8, 0, 3], "i050": [3, 5, 0, 0, 3]}
    data = xgboost.DMatrix(
        np.array(list(vectors.values()), np.float32),
        feature_types=booster.feature_types,
        enable_categorical=True,
    )
    want = dict(zip(vectors, booster.predict(data).astype(float), strict=True))
    assert {r["item_id"]: r["probability"] for r in given} == want
    assert [r["rank"] for r in given] == [1, 2, 3]
    assert {r["as_of"] for r in given} == {NEWEST}
    assert {r["touched_at"] for r in given} == {NEWEST}
    assert {r["horizon_ends"] for r in given} == {NEWEST + timedelta(days=30)}


def test_each_shopper_is_ranked_once_over_the_items_whose_horizon_runs(shop):
    table = read(score(shop, part_rows=10, at=NEWEST)).to_pylist()
    users = {}
    for row in table:
        users.setdefault(row["user_id"], []).append(row)
    assert len(users) == 32
    assert [row["item_id"] for row in users["u2"]] == ["i008"]  # what came later is not known
    assert {row["item_id"] for row in users["s07"]} == {"i007", "i008", "i009"}
    for ranked in users.values():
        assert [row["rank"] for row in ranked] == list(range(1, len(ranked) + 1))
        order = [(-row["probability"], row["item_id"]) for row in ranked]
        assert order == sorted(order)


def test_nobody_is_left_once_every_horizon_is_over(shop):
    found = score(shop)  # as of now: two years later
    assert found.rows == read(found).num_rows == 0
    assert found.expired == 97  # everything that was ever touched
    assert score(shop, at=NEWEST + timedelta(minutes=1)).expired == 93


def test_stopped_run_goes_on_where_it_ended_with_equal_bytes(shop):
    whole = score(shop, part_rows=10, at=NEWEST)
    assert whole.parts > 3
    files = sorted(whole.folder.glob("part-*.parquet"))
    before = [file.read_bytes() for file in files]
    stamps = [file.stat().st_mtime_ns for file in files]
    for file in files[2:]:
        file.unlink()
    (whole.folder / ".part-0002.parquet.1-torn").write_bytes(b"torn")

    def stop(done, parts):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(shop, stop, part_rows=10, at=NEWEST)
    seen = []
    again = score(shop, lambda done, parts: seen.append((done, parts)), part_rows=10, at=NEWEST)
    assert again.folder == whole.folder
    assert (again.rows, again.scored) == (whole.rows, whole.parts - 3)
    assert seen == [(n, whole.parts) for n in range(1, whole.parts + 1)]
    assert [file.read_bytes() for file in files] == before
    assert [file.stat().st_mtime_ns for file in files[:2]] == stamps[:2]
    assert score(shop, part_rows=10, at=NEWEST).scored == 0
    assert (shop.data / "scores" / "latest").resolve() == whole.folder.resolve()


def test_another_model_is_scored_anew(shop):
    first = score(shop, at=NEWEST)
    register(shop, fitted("lightgbm"), contract("lightgbm"))
    second = score(shop, at=NEWEST)
    assert second.folder != first.folder
    assert second.scored == second.parts
    assert read(first).num_rows == read(second).num_rows


def test_missing_champion_names_its_command(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow").mkdir()
    with pytest.raises(NextbuyError, match="nextbuy train"):
        score(Settings(data=tmp_path))
