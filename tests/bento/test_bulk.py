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


def recent(moment, **users):
    return pd.DataFrame(
        [{"user_id": u, "item_ids": i, "event_timestamp": moment} for u, i in users.items()]
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
    tables["recent_items"] = pd.concat(
        [
            recent(AT, u1=["i009"], u2=["i008"], **many),
            recent(NEWEST, u1=["i003", "i008", "i050"]),
            recent(NEWEST + timedelta(hours=1), u2=["i001"]),
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

    table = read(score(shop))
    assert table.schema == SCORE_SCHEMA
    given = [r for r in table.to_pylist() if r["user_id"] == "u1"]
    nan = np.nan
    vectors = {"i003": [3, 5, 3, 1, 3], "i008": [3, 5, 8, 0, 8], "i050": [3, 5, 0, 0, nan]}
    data = xgboost.DMatrix(
        np.array(list(vectors.values()), np.float32),
        feature_types=booster.feature_types,
        enable_categorical=True,
    )
    want = dict(zip(vectors, booster.predict(data).astype(float), strict=True))
    assert {r["item_id"]: r["probability"] for r in given} == want
    assert [r["rank"] for r in given] == [1, 2, 3]
    assert {r["as_of"] for r in given} == {NEWEST}


def test_each_shopper_is_ranked_once_over_the_latest_items_known(shop):
    table = read(score(shop, part_rows=10)).to_pylist()
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


def test_stopped_run_goes_on_where_it_ended_with_equal_bytes(shop):
    whole = score(shop, part_rows=10)
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
        score(shop, stop, part_rows=10)
    seen = []
    again = score(shop, lambda done, parts: seen.append((done, parts)), part_rows=10)
    assert again.folder == whole.folder
    assert (again.rows, again.scored) == (whole.rows, whole.parts - 3)
    assert seen == [(n, whole.parts) for n in range(1, whole.parts + 1)]
    assert [file.read_bytes() for file in files] == before
    assert [file.stat().st_mtime_ns for file in files[:2]] == stamps[:2]
    assert score(shop, part_rows=10).scored == 0
    assert (shop.data / "scores" / "latest").resolve() == whole.folder.resolve()


def test_another_model_is_scored_anew(shop):
    first = score(shop)
    register(shop, fitted("lightgbm"), contract("lightgbm"))
    second = score(shop)
    assert second.folder != first.folder
    assert second.scored == second.parts
    assert read(first).num_rows == read(second).num_rows


def test_missing_champion_names_its_command(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "mlflow").mkdir()
    with pytest.raises(NextbuyError, match="nextbuy train"):
        score(Settings(data=tmp_path))
