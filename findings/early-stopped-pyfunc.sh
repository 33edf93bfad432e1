#!/usr/bin/env bash
# Guess: an early-stopped booster that was logged to MLflow and is scored by its pyfunc uses the best
#   number of trees, whichever library made it.
# Seen: LightGBM's file holds the trees up to the best round and its pyfunc scores with them.
#   XGBoost's native Booster keeps every tree, remembers the best round in an attribute, and predicts
#   with all of them: before logging, after loading, and through pyfunc. Cut it
#   (booster[: booster.best_iteration + 1]) before it is logged.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  xgboost-cpu==3.2.0 lightgbm==4.7.0 mlflow==3.17.2 scikit-learn==1.9.1 numpy==2.4.6 pandas==2.3.3
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR=false
cd "$folder"
venv/bin/python - 2>"$folder/log" <<'PY' || { tail -5 "$folder/log"; exit 1; }
import lightgbm as lgb
import mlflow
import numpy as np
import pandas as pd
import xgboost as xgb

print("xgboost", xgb.__version__, "lightgbm", lgb.__version__, "mlflow", mlflow.__version__)
rng = np.random.default_rng(0)
x = rng.normal(size=(3000, 5))
y = (x[:, 0] + 2 * rng.normal(size=3000) > 0).astype(int)
old, new = slice(1500), slice(1500, None)
xgboost = xgb.train(
    {"objective": "binary:logistic", "eta": 0.3}, xgb.DMatrix(x[old], y[old]), 400,
    evals=[(xgb.DMatrix(x[new], y[new]), "new")], early_stopping_rounds=20, verbose_eval=False,
)
lightgbm = lgb.train(
    {"objective": "binary", "verbose": -1, "learning_rate": 0.3}, lgb.Dataset(x[old], y[old]), 400,
    valid_sets=[lgb.Dataset(x[new], y[new])], callbacks=[lgb.early_stopping(20, verbose=False)],
)
mlflow.set_tracking_uri("sqlite:///mlflow.db")
mlflow.set_experiment("early stopping")
with mlflow.start_run():
    logged = (
        mlflow.xgboost.log_model(xgboost, name="xgboost").model_uri,
        mlflow.lightgbm.log_model(lightgbm, name="lightgbm").model_uri,
    )
by_pyfunc = [mlflow.pyfunc.load_model(uri).predict(pd.DataFrame(x[new])) for uri in logged]
best = xgboost.best_iteration + 1
matrix = xgb.DMatrix(x[new])
at_best = xgboost.predict(matrix, iteration_range=(0, best))
with_all = xgboost.predict(matrix, iteration_range=(0, xgboost.num_boosted_rounds()))
print(f"XGBoost: best {best} of {xgboost.num_boosted_rounds()} trees; pyfunc is "
      f"{np.abs(by_pyfunc[0] - at_best).max():.3f} from the best, "
      f"{np.abs(by_pyfunc[0] - with_all).max():.3f} from all")
assert xgboost.num_boosted_rounds() == best + 20
assert np.array_equal(by_pyfunc[0], with_all)
assert np.array_equal(xgboost.predict(matrix), with_all)
assert not np.allclose(by_pyfunc[0], at_best)
kept = lightgbm.predict(x[new], num_iteration=lightgbm.best_iteration)
print(f"LightGBM: best {lightgbm.best_iteration}; pyfunc is "
      f"{np.abs(by_pyfunc[1] - kept).max():.3f} from the best")
assert np.array_equal(by_pyfunc[1], kept)
PY
