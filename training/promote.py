"""Changes the champion, if every gate passes, and takes a change back.

`nextbuy train` makes the very first champion; every later change happens here.
"""

import json
from typing import Any

import mlflow
import numpy as np
from pydantic import BaseModel, ConfigDict

from nextbuy import atomic
from nextbuy.contract import CHAMPION
from nextbuy.errors import NextbuyError
from nextbuy.models import registry
from nextbuy.models.booster import Booster
from nextbuy.settings import Settings
from nextbuy.shop_clock import shop_clock
from training import gates
from training.baselines import rule_scores, time_and_position_scores
from training.config import TrainConfig
from training.dataset import Dataset, sample_of
from training.evaluate import true_probability
from training.gates import GateResult

REPLACES = "replaces"
"""Tag of a version: the champion it took the place of."""


class Promotion(BaseModel):
    """Whether the challenger became champion, and each gate's result."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: str
    replaces: str | None
    promoted: bool
    gates: tuple[GateResult, ...]


def promote(
    settings: Settings, dataset: Dataset, config: TrainConfig, *, other_settings: bool = False
) -> Promotion:
    """Let the challenger become champion if no gate fails on the test period.

    A challenger of another horizon, session gap or time zone than the champion's is refused, unless
    `other_settings` allows the change. The verdict is written to `reports/promotion.json` and to
    the challenger's MLflow run, either way.

    Raises:
        NextbuyError: there is no challenger, it serves already, or MLflow does not answer.
    """
    client = registry.client(settings)
    with registry.reachable(settings):
        challenger = registry.waiting(client)
        champion = registry.version_of(client, CHAMPION)
    if challenger is None:
        raise NextbuyError(registry.NO_CHALLENGER)
    with registry.reachable(settings):
        incumbent = (
            registry.load_version(settings, champion, threads=1).booster if champion else None
        )
        booster = registry.load_version(settings, challenger, threads=1).booster
        verdicts = judge(
            settings, dataset, booster, incumbent, config, other_settings=other_settings
        )
        result = Promotion(
            version=str(challenger.version),
            replaces=str(champion.version) if champion else None,
            promoted=all(gate.passed is not False for gate in verdicts),
            gates=verdicts,
        )
        atomic.write_text(settings.reports / "promotion.json", result.model_dump_json(indent=1))
        with mlflow.start_run(run_id=challenger.run_id):
            mlflow.log_dict(result.model_dump(), "promotion.json")
        why = "; ".join(f"{g.name}: {g.verdict}, {g.why}" for g in verdicts)
        registry.tag(client, result.version, promotion=why[:5000])
        if result.promoted:
            # Written before the alias moves, so that a rollback is always possible.
            registry.tag(client, result.version, **{REPLACES: result.replaces or ""})
            registry.set_alias(client, CHAMPION, result.version)
    return result


def rollback(settings: Settings) -> tuple[str, str]:
    """Give the champion's place back to the version it replaced; returns (from, to).

    Raises:
        NextbuyError: there is no champion, or it replaced none.
    """
    client = registry.client(settings)
    with registry.reachable(settings):
        champion = registry.version_of(client, CHAMPION)
        if champion is None:
            raise NextbuyError("There is no champion yet. Make one with: nextbuy train")
        before = champion.tags.get(REPLACES)
        if not before:
            raise NextbuyError(
                f"Version {champion.version} replaced no other: there is nothing to go back to."
            )
        registry.set_alias(client, CHAMPION, before)
    return str(champion.version), before


def judge(
    settings: Settings,
    dataset: Dataset,
    booster: Booster,
    incumbent: Booster | None,
    config: TrainConfig,
    *,
    other_settings: bool = False,
) -> tuple[GateResult, ...]:
    """Every gate's verdict on the test period.

    A champion that needs features which no longer exist, or answers another question, cannot be
    compared; the challenger must then beat the best rule, as it must where there is no champion.
    """
    test = dataset.part("test")
    sample = sample_of(test)
    scored = booster.score(test)
    served = incumbent.contract.shop if incumbent else None
    verdicts = [
        gates.same_settings(dataset.shop, booster.contract.shop, served, other_settings),
    ]
    if (
        incumbent is not None
        and served in (None, dataset.shop)
        and set(incumbent.contract.features) <= set(dataset.features)
    ):
        champion, clock = incumbent.score(test), shop_clock(dataset.shop.time_zone)
        verdicts.append(gates.better(sample, scored, champion, "the champion"))
        verdicts.append(gates.no_slice_lost(sample, test, scored, champion, config.gates, clock))
    else:
        rules = rule_scores(test)
        values = {
            name: gates.PR_AUC(sample.labels, rule, np.ones(len(rule)))
            for name, rule in rules.items()
        }
        best = max(values, key=lambda name: values[name])
        verdicts.append(gates.better(sample, scored, rules[best], f"the rule {best!r}"))
    verdicts.append(gates.calibrated(sample, scored, config.gates))
    oracle = true_probability(settings, test, dataset.shop)
    if oracle is not None:
        verdicts.append(gates.not_above_oracle(sample, scored, oracle))
    contract = booster.contract
    baseline = time_and_position_scores(
        contract, dataset.part("train"), dataset.labels("train"), test
    )
    verdicts += [
        gates.no_single_feature_leakage(sample, test, contract.features, scored, config.gates),
        gates.beats_time_and_position(sample, baseline, scored, config.gates),
        gates.fast(booster.predict, len(contract.features), config.gates),
        _parity(settings, config.gates),
    ]
    return tuple(verdicts)


def _parity(settings: Settings, config: gates.GateConfig) -> GateResult:
    """The live path gives what the training set holds, where that was measured."""
    file = settings.reports / "parity.json"
    report: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"values": 0}
    if not report["values"]:
        why = "no live value was compared with training's yet; compare them: nextbuy parity"
        return GateResult(name="parity", passed=None, why=why)
    worst = ", ".join(f"{name}: {count:,}" for name, count in report["features"].items())
    return GateResult(
        name="parity",
        passed=report["mismatches"] <= config.max_parity_share * report["values"],
        why=f"{report['mismatches']:,} of {report['values']:,} live values are not what training "
        f"computes{f' ({worst})' if worst else ''}, at most {config.max_parity_share:.2%}",
    )
