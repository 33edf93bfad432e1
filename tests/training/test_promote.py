import json
import time
from dataclasses import replace
from datetime import timedelta

import mlflow
import numpy as np
import pytest

from nextbuy.contract import CHALLENGER, CHAMPION
from nextbuy.errors import NextbuyError
from nextbuy.models import registry
from nextbuy.models.family import ModelConfig
from nextbuy.shop import LabelConfig, SessionConfig, ShopSettings
from tests.training.small_dataset import chance, dataset
from training.backtest import backtest
from training.config import TrainConfig
from training.dataset import sample_of
from training.evaluate import evaluate
from training.gates import GateConfig, fast, no_slice_lost, not_above_oracle
from training.promote import judge, promote, rollback
from training.train import fit_calibrated, train

# A few hundred rows a bin are off by more than the default by chance; a busy machine is slow.
GATES = GateConfig(max_calibration_error=0.05, max_latency_ms=60_000)
WEAK = TrainConfig(model=ModelConfig(rounds=1, learning_rate=0.001, threads=1), gates=GATES)
GOOD = TrainConfig(
    model=ModelConfig(rounds=60, learning_rate=0.2, column_share=1.0, threads=1), gates=GATES
)


@pytest.fixture(autouse=True)
def one_family(monkeypatch):
    """All families are fitted in `test_models`; logging a model is what takes the time here."""
    monkeypatch.setattr("training.train.FAMILIES", ("lightgbm",))


def alias(settings, name):
    return str(registry.version_of(registry.client(settings), name).version)


def silent(message):
    pass


def test_a_better_challenger_is_promoted_and_rolled_back_and_nothing_else_moves_the_champion(
    settings,
):
    data = dataset(noise__x=lambda rng, label: rng.random(len(label)))
    first = train(settings, data, WEAK, silent)
    assert first.is_champion
    assert alias(settings, CHAMPION) == first.version
    with pytest.raises(NextbuyError, match="no challenger beside the champion"):
        promote(settings, data, WEAK)
    with pytest.raises(NextbuyError, match="replaced no other"):
        rollback(settings)

    second = train(settings, data, GOOD, silent)
    assert not second.is_champion
    assert alias(settings, CHAMPION) == first.version
    assert alias(settings, CHALLENGER) == second.version

    result = promote(settings, data, GOOD)
    assert {gate.name: gate.passed for gate in result.gates} == {
        "same settings": True, "better": True, "slices": True, "calibrated": True,
        "no single-feature leakage": True,
        "beats time and position": True, "fast": True, "parity": None,
    }  # fmt: skip
    assert result.promoted
    assert alias(settings, CHAMPION) == second.version
    written = json.loads((settings.reports / "promotion.json").read_text())
    assert written["replaces"] == first.version

    # The same again is up to date; a weaker challenger stays outside, with the reason written.
    assert not train(settings, data, GOOD, silent).fitted
    third = train(settings, data, WEAK, silent)
    assert third.version != first.version or not third.fitted
    refused = promote(settings, data, WEAK)
    assert not refused.promoted
    assert "against the champion" in refused.gates[1].why
    assert alias(settings, CHAMPION) == second.version
    tags = registry.version_of(registry.client(settings), CHALLENGER).tags
    assert "better: FAILED" in tags["promotion"]

    assert rollback(settings) == (second.version, first.version)
    assert alias(settings, CHAMPION) == first.version


def verdict(data, config=GOOD, settings=None):
    model = fit_calibrated(data, "lightgbm", config.model)
    return {gate.name: gate for gate in judge(settings, data, model, None, config)}


def test_a_feature_that_knows_the_outcome_stops_the_promotion_by_name(settings):
    data = dataset(leak__outcome=lambda rng, label: label + 0.3 * rng.random(len(label)))
    gate = verdict(data, settings=settings)["no single-feature leakage"]
    assert not gate.passed
    assert "leak__outcome alone" in gate.why


def test_rows_sampled_by_outcome_and_hour_stop_the_promotion(settings):
    data = dataset(
        session__entry_weekday=lambda rng, label: label * 3 + rng.integers(0, 2, len(label))
    )
    assert not verdict(data, settings=settings)["beats time and position"].passed


def test_a_live_path_that_differs_from_training_stops_the_promotion(settings):
    settings.reports.mkdir()
    report = {"mismatches": 3, "values": 90, "features": {"user__n_views": 3}}
    (settings.reports / "parity.json").write_text(json.dumps(report))
    gate = verdict(dataset(), settings=settings)["parity"]
    assert not gate.passed
    assert "user__n_views: 3" in gate.why
    tolerant = GOOD.model_copy(
        update={"gates": GOOD.gates.model_copy(update={"max_parity_share": 0.05})}
    )
    assert verdict(dataset(), tolerant, settings)["parity"].passed


def test_who_beats_the_true_probability_is_stopped(settings):

    data = dataset()
    sample = sample_of(data.part("test"))
    cart = data.part("test")["user_item__is_in_cart"].to_numpy(zero_copy_only=False)
    truth = chance(cart, np.array(data.part("test")["item__brand"].to_pylist()))
    seer = truth + 0.5 * sample.labels
    assert not_above_oracle(sample, truth, truth).passed
    assert not not_above_oracle(sample, seer, truth).passed


def test_shuffled_labels_give_the_base_rate_and_no_promotion(settings):
    data = dataset(shuffled=True)
    gates = verdict(data, settings=settings)
    assert not gates["better"].passed


def test_evaluation_is_the_same_to_the_last_digit_and_holds_what_it_promises(settings):
    data = dataset()
    train(settings, data, GOOD, silent)
    first = evaluate(settings, data, GOOD)
    (settings.reports / "evaluation.json").unlink()
    assert evaluate(settings, data, GOOD) == first
    champion = first["models"][first["champion"]]
    assert set(champion) >= {"pr_auc", "recall_at_5", "lift_at_5", "ndcg_10", "brier"}
    assert {"in the cart", "category toys", "returning shopper"} <= set(first["slices"])
    page = (settings.reports / "model_card" / "model_card.html").read_text()
    assert page.count("data:image/png;base64,") == 6
    assert first["decisions"]["curve"][0]["realized_cents"] == 0
    run = registry.version_of(registry.client(settings), CHAMPION).run_id
    names = {a.path for a in mlflow.MlflowClient().list_artifacts(run)}
    assert {"model_card.html", "shap.png", "reliability.png", "evaluation.json"} <= names


def test_mlflow_that_goes_away_leaves_the_champion(settings, monkeypatch):
    data = dataset()
    first = train(settings, data, WEAK, silent)
    broken = registry.log_booster

    def goes_away(*arguments):
        broken(*arguments)
        raise ConnectionError("connection refused")

    monkeypatch.setattr(registry, "log_booster", goes_away)
    with pytest.raises(NextbuyError, match="The champion is what it was"):
        train(settings, data, GOOD, silent)
    monkeypatch.undo()
    monkeypatch.setenv("NEXTBUY_DATA", str(settings.data))
    assert alias(settings, CHAMPION) == alias(settings, CHALLENGER) == first.version
    assert train(settings, data, GOOD, silent).fitted


def test_a_gate_without_anything_to_measure_has_not_passed(settings):
    gate = verdict(dataset(), settings=settings)["parity"]
    assert (gate.passed, gate.verdict) == (None, "not measured")
    settings.reports.mkdir(exist_ok=True)
    nothing = {"mismatches": 0, "values": 0, "features": {}}  # every logged row was left out
    (settings.reports / "parity.json").write_text(json.dumps(nothing))
    assert verdict(dataset(), settings=settings)["parity"].verdict == "not measured"
    few = dataset().part("test").slice(0, 30)
    truth = np.linspace(0, 1, 30)
    assert no_slice_lost(sample_of(few), few, truth, truth, GATES).verdict == "not measured"


def test_a_slice_that_is_surely_worse_stops_the_promotion_by_name():
    data = dataset()
    test = data.part("test")
    sample = sample_of(test)
    cart = test["user_item__is_in_cart"].to_numpy(zero_copy_only=False)
    truth = chance(cart, np.array(test["item__brand"].to_pylist()))
    toys = np.array(test["item__category"].to_pylist()) == "toys"
    assert no_slice_lost(sample, test, truth, truth, GATES).passed
    gate = no_slice_lost(sample, test, np.where(toys, 1 - truth, truth), truth, GATES)
    assert not gate.passed
    assert "category toys -0." in gate.why
    assert "category books" not in gate.why


def test_a_model_too_slow_for_a_request_is_stopped():
    def slow(rows):
        time.sleep(0.002 if rows.shape == (50, 8) else 0)
        return rows[:, 0]

    assert not fast(slow, 8, GateConfig(max_latency_ms=1)).passed
    assert fast(slow, 8, GATES).passed


def test_a_backtest_trains_on_earlier_ends_of_the_log_and_keeps_no_model(settings, monkeypatch):
    ends = []

    def until(settings, config, ago):
        ends.append(ago)
        return dataset(seed=len(ends))

    monkeypatch.setattr("training.backtest.build_dataset", until)  # its splits have tests of theirs
    found = backtest(settings, GOOD, "lightgbm", 3, 10.0, silent)
    assert ends == [timedelta(days=20), timedelta(days=10), timedelta(0)]
    assert len(found) == 3
    assert all(o["metrics"]["pr_auc"]["value"] > 2 * o["positives"] / o["rows"] for o in found)
    assert json.loads((settings.reports / "backtest.json").read_text()) == found
    client = registry.client(settings)
    assert registry.version_of(client, CHALLENGER) is None
    experiment = client.get_experiment_by_name(registry.EXPERIMENT).experiment_id
    runs = client.search_runs([experiment])
    assert sum("mlflow.parentRunId" in run.data.tags for run in runs) == 3


def week(data):
    """The same rows, labelled by another horizon."""
    return replace(data, shop=ShopSettings(labels=LabelConfig(horizon_days=7)))


def test_a_challenger_of_another_horizon_is_refused_with_both_values(settings):
    data = dataset()
    train(settings, data, WEAK, silent)
    train(settings, week(data), GOOD, silent)
    refused = promote(settings, week(data), GOOD)
    assert not refused.promoted
    gate = refused.gates[0]
    assert gate.name == "same settings"
    assert not gate.passed
    assert "labels.horizon_days 7, not 30 as the champion" in gate.why
    assert "--other-settings" in gate.why
    changed = promote(settings, week(data), GOOD, other_settings=True)
    assert changed.gates[0].passed
    assert "against the rule" in changed.gates[1].why  # the champion answers another question
    assert changed.promoted


def test_a_challenger_is_not_judged_on_labels_of_another_horizon(settings):
    """As after a rebuild: 7 days were learned, the tables here look 30 days ahead."""
    data = dataset()
    train(settings, data, WEAK, silent)
    train(settings, week(data), GOOD, silent)
    refused = promote(settings, data, GOOD, other_settings=True)
    assert not refused.promoted
    assert "labels.horizon_days 7, not 30 as in these tables" in refused.gates[0].why


def test_a_model_carries_what_its_probability_means(settings):
    shop = ShopSettings(
        labels=LabelConfig(horizon_days=7), sessions=SessionConfig(gap_minutes=20),
        time_zone="Europe/Berlin",
    )  # fmt: skip
    data = replace(dataset(), shop=shop)
    trained = train(settings, data, WEAK, silent)
    client = registry.client(settings)
    version = registry.version_of(client, CHAMPION)
    meaning = {"horizon_days": "7", "session_gap_minutes": "20", "time_zone": "Europe/Berlin"}
    assert meaning.items() <= version.tags.items()
    assert meaning.items() <= client.get_run(version.run_id).data.params.items()
    assert registry.load_alias(settings, CHAMPION).booster.contract.shop == shop
    report = evaluate(settings, data, WEAK)
    assert "within 7 days" in report["settings"]["question"]
    assert report["settings"]["differing"] == ""
    card = (settings.reports / "model_card" / "model_card.html").read_text()
    assert "within 7 days" in card
    assert "20 minutes" in card
    assert "Europe/Berlin" in card
    other = evaluate(settings, replace(data, shop=ShopSettings(), digest="other"), WEAK)
    assert "labels.horizon_days 7, not 30" in other["settings"]["differing"]
    assert not train(settings, data, WEAK, silent).fitted
    assert train(settings, replace(data, shop=ShopSettings()), WEAK, silent).fitted
    assert trained.is_champion


def test_a_model_of_an_older_version_is_taken_to_answer_the_same_question(settings):
    from training.gates import same_settings

    gate = same_settings(ShopSettings(), ShopSettings(), None, False)
    assert gate.passed
    assert "does not say" in gate.why


def test_without_a_challenger_none_is_measured(settings):
    data = dataset()
    train(settings, data, WEAK, silent)  # champion and challenger are one version
    with pytest.raises(NextbuyError, match="no challenger beside the champion"):
        evaluate(settings, data, WEAK, CHALLENGER)
    assert not (settings.reports / "evaluation-challenger.json").exists()
