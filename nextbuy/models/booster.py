"""A fitted booster of either family."""

import lightgbm as lgb
import xgboost as xgb

Booster = xgb.Booster | lgb.Booster
