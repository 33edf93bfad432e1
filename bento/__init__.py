"""The HTTP service: which of these items will the shopper buy next?"""

import nextbuy.telemetry  # noqa: F401  before any module here imports bentoml or mlflow
