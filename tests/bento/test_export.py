import json
from pathlib import Path

import bentoml
import numpy as np
import pytest

from bento.export import export_champion
from bento.model import Model, read_info
from nextbuy.contract import Calibration
from nextbuy.errors import NextbuyError
from tests.bento.small_shop import FEATURES, contract, fitted
from tests.shop import register

BLOCK = np.array([[1, 2, 3, 1, np.nan], [9, 0, np.nan, 0, 8]], np.float32)


def folder(tag):
    return Path(bentoml.models.get(tag).path)


def test_without_a_champion_the_message_says_how_to_get_one(settings):
    settings.data.joinpath("mlflow").mkdir(exist_ok=True)
    with pytest.raises(NextbuyError, match="nextbuy train"):
        export_champion(settings)


@pytest.mark.parametrize("family", ["xgboost", "lightgbm"])
def test_exported_booster_gives_training_its_own_probabilities(settings, family):
    booster = fitted(family)
    version = register(settings, booster, contract(family))
    model = Model("t", folder(export_champion(settings)))
    if family == "xgboost":
        import xgboost

        kinds = booster.feature_types
        data = xgboost.DMatrix(BLOCK, feature_types=kinds, enable_categorical=True)
        expected = booster.predict(data)
    else:
        expected = booster.predict(BLOCK)
    np.testing.assert_array_equal(model.booster.predict(BLOCK), np.float64(expected))
    # The log-odds are the contributions and a constant.
    odds = np.log(expected / (1 - expected))
    summed = model.booster.contributions(BLOCK).sum(axis=1)
    assert summed[1] - summed[0] == pytest.approx(odds[1] - odds[0], rel=1e-5)
    assert model.info.mlflow_version == version
    assert model.contract == contract(family)


@pytest.mark.parametrize("family", ["xgboost", "lightgbm"])
def test_the_calibration_travels_with_the_booster(settings, family):
    booster = fitted(family)
    register(settings, booster, contract(family))
    raw = Model("t", folder(export_champion(settings))).booster
    shifted = contract(family, calibration=Calibration(slope=2.0, intercept=-1.0))
    register(settings, booster, shifted)
    model = Model("t", folder(export_champion(settings))).booster
    odds = [np.log(p / (1 - p)) for p in (raw.predict(BLOCK), model.predict(BLOCK))]
    np.testing.assert_allclose(odds[1], 2 * odds[0] - 1, rtol=1e-6)
    np.testing.assert_allclose(model.contributions(BLOCK), 2 * raw.contributions(BLOCK))


def test_exporting_again_changes_nothing(settings):
    register(settings, fitted("xgboost"), contract())
    tag = export_champion(settings)
    before = [(f, f.stat().st_mtime_ns) for f in sorted(folder(tag).iterdir())]
    assert export_champion(settings) == tag
    assert [(f, f.stat().st_mtime_ns) for f in sorted(folder(tag).iterdir())] == before


def test_latest_follows_the_alias_back(settings):
    import mlflow

    first = register(settings, fitted("xgboost", seed=1), contract())
    tag = export_champion(settings)
    register(settings, fitted("xgboost", seed=2), contract())
    assert export_champion(settings) != tag
    mlflow.MlflowClient().set_registered_model_alias("nextbuy", "champion", first)
    assert export_champion(settings) == tag
    assert str(bentoml.models.get("nextbuy:latest").tag) == tag


def test_model_without_contract_is_refused(settings):
    import mlflow

    mlflow.set_tracking_uri(settings.tracking_uri)
    mlflow.set_experiment("tests")
    with mlflow.start_run():
        logged = mlflow.xgboost.log_model(
            fitted("xgboost"), name="m", registered_model_name="nextbuy", pip_requirements=[]
        )
    version = logged.registered_model_version
    mlflow.MlflowClient().set_registered_model_alias("nextbuy", "champion", version)
    with pytest.raises(NextbuyError, match="lacks 'contract'"):
        export_champion(settings)


def test_booster_with_other_columns_than_its_contract_is_refused(settings):
    register(settings, fitted("lightgbm"), contract("lightgbm", FEATURES[:4]))
    with pytest.raises(NextbuyError, match="takes 5 columns, its contract names 4"):
        Model("t", folder(export_champion(settings)))


def test_a_folder_without_model_json_is_refused(tmp_path):
    with pytest.raises(NextbuyError, match="not an exported"):
        read_info(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"contract": {}}))
    with pytest.raises(NextbuyError, match="not an exported"):
        read_info(tmp_path)
