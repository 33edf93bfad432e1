"""The registry's versions side by side: on validation, on the test, and on the rows since."""

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from mlflow.tracking import MlflowClient
from sklearn.metrics import average_precision_score

from nextbuy.contract import CHALLENGER, CHAMPION, REGISTERED_MODEL
from nextbuy.models.registry import load_alias
from nextbuy.settings import Settings

MOST = 20
"""Versions that are told, the newest first."""


def versions(settings: Settings, matured: pa.Table, at: datetime) -> list[dict[str, Any]]:
    """Rows of `reports.VERSIONS`; `matured` (features, `label`) is for champion and challenger."""
    client = MlflowClient(settings.tracking_uri)
    aliases = dict(client.get_registered_model(REGISTERED_MODEL).aliases)
    by_version = {str(v): k for k, v in aliases.items()}
    label = matured["label"].to_numpy()
    found = []
    for version in client.search_model_versions(
        f"name = '{REGISTERED_MODEL}'", max_results=MOST, order_by=["version_number DESC"]
    ):
        metrics = client.get_run(str(version.run_id)).data.metrics
        alias = by_version.get(str(version.version), "")
        recent = None
        if alias in (CHAMPION, CHALLENGER) and 0 < np.sum(label) < len(label):
            booster = load_alias(settings, alias).booster
            if set(booster.contract.features) <= set(matured.column_names):
                recent = float(average_precision_score(label, booster.score(matured)))
        found.append(
            {
                "at": at,
                "version": str(version.version),
                "alias": alias,
                "family": version.tags.get("family", ""),
                "validation_pr_auc": metrics.get("validation_pr_auc"),
                "test_pr_auc": metrics.get("test_pr_auc"),
                "recent_pr_auc": recent,
            }
        )
    return found
