"""Search of the model's parameters: budgeted, seeded, pruned, and resumed where it was stopped."""

from collections.abc import Callable

import mlflow
import optuna
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import log_loss

from nextbuy.contract import FEATURE_SERVICE
from nextbuy.models import registry
from nextbuy.models.booster import fit_booster
from nextbuy.models.family import ModelConfig
from nextbuy.settings import Settings
from nextbuy.versioned_table import fingerprint
from training.dataset import Dataset
from training.train import contract_for

FINISHED = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)


class Tuned(BaseModel):
    """The result of a search."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: ModelConfig
    log_loss: float
    """Of the best trial, on the validation split."""
    default_log_loss: float
    """Of the parameters that the search began with: the first trial."""
    trials: int
    """All that the study holds, those of earlier runs included."""
    pruned: int


def tune(
    settings: Settings,
    dataset: Dataset,
    start: ModelConfig,
    family: str,
    trials: int,
    say: Callable[[str], None],
) -> Tuned:
    """Run the study up to `trials` trials; what an earlier run finished is not run again.

    TPE (Bergstra et al., 2011) minimizes the log-loss on the validation split; a trial whose
    validation curve is worse than the median of the earlier ones at the same number of trees is
    pruned. The first trial is `start`. Trials are kept in `tuning.db`, one nested MLflow run
    each, under the fingerprint of the data and of `start`. One trial at a time, each seeded by its
    number: a study that was stopped resumes as if it had not been.

    Raises:
        NextbuyError: MLflow does not answer; the finished trials are kept.
    """
    registry.client(settings)
    study = _open_study(
        settings, f"{family}-{fingerprint(dataset.digest, start.model_dump())[:12]}"
    )
    objective = _objective(dataset, start, family)
    with (
        registry.reachable(settings),
        mlflow.start_run(run_name=f"tune {family}", tags={"study": study.study_name}),
    ):
        while (done := len(_finished(study))) < trials:
            # Seeded by the trial, so that stopping and resuming changes nothing.
            study.sampler = optuna.samplers.TPESampler(seed=start.seed + done, n_startup_trials=4)
            study.optimize(objective, n_trials=1)
            best = study.best_trial
            say(f"trial {done + 1} of {trials}: best log-loss {best.value:.5f} ({best.number})")
        best = study.best_trial
        mlflow.log_params(best.user_attrs["config"])
        mlflow.log_metric("validation_log_loss", float(best.value or 0.0))
    finished = _finished(study)
    return Tuned(
        config=ModelConfig.model_validate(best.user_attrs["config"]),
        log_loss=float(best.value or 0.0),
        default_log_loss=float(finished[0].value or 0.0),
        trials=len(finished),
        pruned=sum(t.state == optuna.trial.TrialState.PRUNED for t in finished),
    )


def _open_study(settings: Settings, name: str) -> optuna.Study:
    """The study of this name in `tuning.db`; a new one is made if it is missing."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    settings.data.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        study_name=name,
        storage=f"sqlite:///{settings.data / 'tuning.db'}",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=20),
    )


def _finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return study.get_trials(states=FINISHED, deepcopy=False)


def _objective(
    dataset: Dataset, start: ModelConfig, family: str
) -> Callable[[optuna.Trial], float]:
    """Fit one trial in a nested MLflow run; its value is the log-loss on the validation split."""
    train = dataset.part("train")
    contract = contract_for(train, dataset.features, FEATURE_SERVICE, family, start)
    learned = contract.matrix(train), dataset.labels("train")
    held_out = contract.matrix(dataset.part("validation")), dataset.labels("validation")

    def objective(trial: optuna.Trial) -> float:
        config = _propose(trial, start) if _finished(trial.study) else start

        def report(round_number: int, loss: float) -> None:
            trial.report(loss, round_number)
            if trial.should_prune():
                raise optuna.TrialPruned

        with mlflow.start_run(run_name=f"trial {trial.number}", nested=True):
            mlflow.log_params({"family": family, **config.model_dump()})
            try:
                booster = fit_booster(contract, learned, held_out, config, report)
            except optuna.TrialPruned:
                mlflow.set_tag("pruned", "true")
                raise
            loss = float(log_loss(held_out[1], booster.predict(held_out[0]), labels=[0, 1]))
            mlflow.log_metric("validation_log_loss", loss)
        trial.set_user_attr("config", config.model_dump())
        return loss

    return objective


def _propose(trial: optuna.Trial, start: ModelConfig) -> ModelConfig:
    return start.model_copy(
        update={
            "learning_rate": trial.suggest_float("learning_rate", 0.02, 0.2, log=True),
            "depth": trial.suggest_int("depth", 2, 7),
            "min_child_rows": trial.suggest_int("min_child_rows", 10, 200, log=True),
            "row_share": trial.suggest_float("row_share", 0.5, 1.0),
            "column_share": trial.suggest_float("column_share", 0.2, 1.0),
            "l2": trial.suggest_float("l2", 0.1, 50.0, log=True),
        }
    )
