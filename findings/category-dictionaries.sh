#!/usr/bin/env bash
# Guess: a booster trained on a pandas category column reads the integer codes; at prediction another
#   order of the dictionary gives other probabilities, silently, and a dictionary with one more value
#   is fine as long as no row has it.
# Seen: XGBoost 3.2 and LightGBM 4.7 both map the values to the training's codes, XGBoost even after
#   the model went through a file. With one more value in the dictionary that no row has, XGBoost
#   raises; LightGBM goes on, and scores a row that does have it like a missing value. An Arrow
#   dictionary column is fine for XGBoost and refused by LightGBM.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  xgboost-cpu==3.2.0 lightgbm==4.7.0 pandas==2.3.3 numpy==2.4.6 pyarrow==25.0.1
"$folder/venv/bin/python" - "$folder" <<'PY'
import sys
import warnings

import lightgbm as lgb
import numpy as np
import pandas as pd
import pyarrow as pa
import xgboost as xgb

warnings.filterwarnings("ignore")
print("xgboost", xgb.__version__, "lightgbm", lgb.__version__, "pandas", pd.__version__)
rng = np.random.default_rng(0)
values, log_odds = ["a", "b", "c", "d"], {"a": -2, "b": 0, "c": 1, "d": 3}
drawn = rng.choice(values, 4000)
bought = rng.random(4000) < 1 / (1 + np.exp(-np.vectorize(log_odds.get)(drawn)))
train = pd.DataFrame({"c": pd.Categorical(drawn, categories=values), "x": rng.random(4000)})
xgboost = xgb.train(
    {"objective": "binary:logistic", "max_depth": 3},
    xgb.DMatrix(train, bought, enable_categorical=True), 30,
)
xgboost.save_model(f"{sys.argv[1]}/model.ubj")
reloaded = xgb.Booster(model_file=f"{sys.argv[1]}/model.ubj")
lightgbm = lgb.train({"objective": "binary", "verbose": -1}, lgb.Dataset(train, bought), 30)


def rows(dictionary, column=values):
    return pd.DataFrame({"c": pd.Categorical(column, categories=dictionary), "x": 0.5})


def by_xgboost(frame, model=xgboost):
    return model.predict(xgb.DMatrix(frame, enable_categorical=True))


same, turned, larger = rows(values), rows(values[::-1]), rows([*values, "e"])
print("XGBoost, same and reversed dictionary:", by_xgboost(same).round(3), by_xgboost(turned).round(3))
assert np.array_equal(by_xgboost(same), by_xgboost(turned))
assert np.array_equal(by_xgboost(same), by_xgboost(turned, reloaded))
print("LightGBM, the same:", lightgbm.predict(same).round(3), lightgbm.predict(turned).round(3))
assert np.array_equal(lightgbm.predict(same), lightgbm.predict(turned))
try:
    by_xgboost(larger)
except xgb.core.XGBoostError as error:
    print("XGBoost, one value more that no row has:", str(error).splitlines()[0][-80:])
else:
    raise SystemExit("XGBoost took a dictionary with a value it was not trained on")
print("LightGBM, one value more that no row has:", lightgbm.predict(larger).round(3))
assert np.array_equal(lightgbm.predict(same), lightgbm.predict(larger))
unknown, missing = rows([*values, "e"], ["e"]), rows(values, [None])
print("LightGBM, a row with it, and a row without a value:",
      lightgbm.predict(unknown).round(3), lightgbm.predict(missing).round(3))
assert np.array_equal(lightgbm.predict(unknown), lightgbm.predict(missing))
arrow = pa.table({"c": pa.array(["d", "a"]).dictionary_encode(), "x": [0.5, 0.5]})
assert np.array_equal(by_xgboost(arrow), by_xgboost(same)[[3, 0]])
try:
    lightgbm.predict(arrow)
except lgb.basic.LightGBMError as error:
    print("LightGBM, an Arrow dictionary:", error)
else:
    raise SystemExit("LightGBM took an Arrow dictionary")
PY
