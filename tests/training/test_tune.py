import mlflow
import pytest

from nextbuy.errors import NextbuyError
from nextbuy.models import registry
from nextbuy.models.family import ModelConfig
from tests.training.small_dataset import dataset
from training import tune

START = ModelConfig(rounds=25, patience=10, learning_rate=0.2, threads=1)


def silent(message):
    pass


def test_a_stopped_study_goes_on_as_if_it_had_not_been_stopped(settings, tmp_path, monkeypatch):
    data = dataset(rows=3_000)
    whole = tune.tune(settings, data, START, "lightgbm", 6, silent)
    assert whole.trials == 6
    assert whole.log_loss <= whole.default_log_loss

    monkeypatch.setenv("NEXTBUY_DATA", str(tmp_path / "other"))
    other = type(settings)()
    tune.tune(other, data, START, "lightgbm", 3, silent)
    resumed = tune.tune(other, data, START, "lightgbm", 6, silent)
    assert resumed == whole
    # A budget already spent does nothing.
    assert tune.tune(other, data, START, "lightgbm", 6, silent) == whole


def test_each_trial_is_a_nested_run_and_a_failure_keeps_those_before(settings, monkeypatch):
    data = dataset(rows=3_000)
    real, calls = mlflow.start_run, []

    def goes_away(*arguments, **more):
        calls.append(more)
        if len(calls) == 4:  # the study's own run, two trials, and then
            raise ConnectionError("connection refused")
        return real(*arguments, **more)

    monkeypatch.setattr(mlflow, "start_run", goes_away)
    with pytest.raises(NextbuyError, match="run the command again"):
        tune.tune(settings, data, START, "xgboost", 4, silent)
    monkeypatch.setattr(mlflow, "start_run", real)
    assert tune.tune(settings, data, START, "xgboost", 4, silent).trials == 4
    client = registry.client(settings)
    experiment = client.get_experiment_by_name(registry.EXPERIMENT).experiment_id
    runs = client.search_runs([experiment])
    nested = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(nested) == 4


def test_a_trial_that_falls_behind_is_ended_early_and_said_so(settings):
    data = dataset(rows=1_500)
    patient = START.model_copy(update={"rounds": 60, "patience": 60})
    found = tune.tune(settings, data, patient, "lightgbm", 9, silent)
    assert found.trials == 9
    assert 0 < found.pruned < 9
    client = registry.client(settings)
    experiment = client.get_experiment_by_name(registry.EXPERIMENT).experiment_id
    runs = client.search_runs([experiment])
    assert sum(run.data.tags.get("pruned") == "true" for run in runs) == found.pruned
