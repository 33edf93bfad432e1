"""A model family is one module and one registration: all of a third one stands in this file."""

import json
from pathlib import Path
from types import SimpleNamespace

import bentoml
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from bento.export import export_champion
from bento.model import Model
from nextbuy.contract import CHAMPION
from nextbuy.errors import NextbuyError
from nextbuy.models.booster import load_booster
from nextbuy.models.families import FAMILIES
from nextbuy.models.family import ModelConfig, check_columns
from nextbuy.models.registry import load_alias
from tests.training.small_dataset import dataset
from training.config import TrainConfig
from training.evaluate import evaluate
from training.gates import GateConfig
from training.promote import promote
from training.train import train

GATES = GateConfig(max_calibration_error=0.05, max_latency_ms=60_000)
CONFIG = TrainConfig(model=ModelConfig(l2=1.0, threads=1), gates=GATES)


def fit(contract, train, validation, config, report):
    model = LogisticRegression(C=1 / config.l2).fit(np.nan_to_num(train[0]), train[1])
    return {"weights": model.coef_[0].tolist(), "intercept": float(model.intercept_[0])}


def log(booster, name, metadata, **options):
    from mlflow.models import Model as MlflowModel

    def save_model(path, mlflow_model):
        Path(path).mkdir(parents=True)
        (Path(path) / "model.json").write_text(json.dumps(booster))
        mlflow_model.metadata = metadata
        mlflow_model.add_flavor("logistic", data="model.json")
        mlflow_model.save(f"{path}/MLmodel")

    options.pop("pip_requirements")  # nothing but NumPy scores it
    return MlflowModel.log(
        None, name=name, flavor=SimpleNamespace(save_model=save_model), **options
    )


def load(file, contract, threads):
    booster = json.loads(file.read_text())
    check_columns(contract, len(booster["weights"]), None)
    return booster


def predict(booster, matrix, threads):
    return 1 / (1 + np.exp(-np.nan_to_num(matrix) @ booster["weights"] - booster["intercept"]))


def explain(booster, matrix, threads):
    return np.nan_to_num(matrix) * booster["weights"]


@pytest.fixture(autouse=True)
def logistic(monkeypatch):
    family = SimpleNamespace(fit=fit, log=log, load=load, predict=predict, explain=explain)
    for other in list(FAMILIES):
        monkeypatch.delitem(FAMILIES, other)
    monkeypatch.setitem(FAMILIES, "logistic", family)


def silent(message):
    pass


def test_a_registered_family_is_trained_logged_loaded_served_and_explained(settings, monkeypatch):
    monkeypatch.setenv("BENTOML_HOME", str(settings.data / "bentoml"))
    data = dataset()
    trained = train(settings, data, CONFIG, silent)
    assert trained.family == "logistic"
    champion = load_alias(settings, CHAMPION)
    assert champion.version == trained.version
    assert champion.metrics["validation_pr_auc"] == trained.validation_pr_auc["logistic"]
    test = data.part("test")
    probability = champion.booster.score(test)
    assert probability.mean() == pytest.approx(data.labels("test").mean(), abs=0.02)

    report = evaluate(settings, data, CONFIG)
    assert report["champion"] == "champion (logistic)"
    card = settings.reports / "model_card" / "model_card.html"
    assert "<td>champion (logistic)</td>" in card.read_text()

    tag = export_champion(settings)
    served = Model(tag, Path(bentoml.models.get(tag).path))
    matrix = served.contract.matrix(test)
    np.testing.assert_array_equal(served.booster.predict(matrix), probability)
    odds = np.log(probability / (1 - probability))
    effects = served.booster.contributions(matrix).sum(axis=1)
    np.testing.assert_allclose(effects - effects[0], odds - odds[0], atol=1e-9)

    stronger = CONFIG.model_copy(update={"model": ModelConfig(l2=0.01, threads=1)})
    assert train(settings, data, stronger, silent).fitted
    assert {"better", "calibrated", "fast"} <= {
        g.name for g in promote(settings, data, CONFIG).gates
    }


def test_a_family_that_is_not_registered_is_named(settings, tmp_path):
    contract = SimpleNamespace(family="forest")
    with pytest.raises(NextbuyError, match=r"no model family forest\. There are: logistic"):
        load_booster(tmp_path / "booster.json", contract)
