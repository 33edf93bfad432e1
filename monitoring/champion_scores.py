"""The champion's scores of every row since its training, as of each row's own moment.

The prediction log knows only what was requested over HTTP. The rows that the labels name are all
that could have been requested, so drift and performance have a past from the first run on.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore
from sklearn.metrics import average_precision_score

from nextbuy.connection import duckdb_connection
from nextbuy.contract import CHALLENGER, CHAMPION, REGISTERED_MODEL
from nextbuy.errors import NextbuyError
from nextbuy.models.registry import RegisteredModel, load_alias, reader
from nextbuy.settings import Settings
from nextbuy.sql import read_parquet
from nextbuy.stores.offline.cached import cached_features
from nextbuy.versioned_table import files, fingerprint, require

MAX_ROWS = 60_000
"""Of more rows, some shoppers are left out, always the same ones."""
MAX_VERSIONS = 20
"""Versions that are compared, the newest ones."""
KEYS = ("user_id", "item_id", "predicted_at", "label", "known_at")


def training_rows(settings: Settings) -> pa.Table:
    """The training split of the newest training set: `label` and the features.

    Raises:
        NextbuyError: nothing was trained yet.
    """
    datasets = (settings.data / "datasets").glob("*.parquet")
    newest = max(datasets, key=lambda file: file.stat().st_mtime, default=None)
    if newest is None:
        raise NextbuyError("There is no training set yet. Make one with: nextbuy train")
    return pq.read_table(newest, filters=[("split", "=", "train")])


def scored_since(settings: Settings, champion: RegisteredModel, training: pa.Table) -> pa.Table:
    """The rows after the training period with features, label (null while open) and probability.

    Features are retrieved through Feast as of each row's moment. Kept below `monitoring/`
    under the hash of everything it depends on.

    Args:
        settings: where things are.
        champion: what scores the rows.
        training: its `event_timestamp` says where the training period ends.

    Returns:
        `user_id, item_id, predicted_at, label, known_at, probability` and the features.

    Raises:
        NextbuyError: a table is missing.
    """
    labels = require(settings.labels, "nextbuy sessionize")
    store = FeatureStore(repo_path=str(settings.feature_repo))
    service = store.get_feature_service(champion.booster.contract.feature_service)
    views = [projection.name for projection in service.feature_view_projections]
    tables = [require(settings.features / view, "nextbuy features").fingerprint for view in views]
    since = max(training["event_timestamp"].to_pylist())
    digest = fingerprint(
        labels.fingerprint, tables, str(since), champion.version, MAX_ROWS, Path(__file__)
    )
    file = settings.data / "monitoring" / f"scored-{digest}.parquet"

    def finish(retrieved: pa.Table) -> pa.Table:
        table = retrieved.rename_columns({"event_timestamp": "predicted_at"})
        table = table.append_column("probability", pa.array(champion.booster.score(table)))
        columns = [*KEYS, "probability", *champion.booster.contract.features]
        return table.select(columns).sort_by([(name, "ascending") for name in KEYS[:3]])

    scored = cached_features(file, store, service, lambda: _rows(settings, since), finish)
    for old in set(file.parent.glob("scored-*.parquet")) - {file}:
        old.unlink()
    return scored


def compare_versions(settings: Settings, matured: pa.Table, at: datetime) -> list[dict[str, Any]]:
    """The registry's versions side by side: on validation, on the test, and on the rows since.

    Args:
        settings: where the registry is.
        matured: rows with `label` and features; champion and challenger are scored on them.
        at: the moment of the run.

    Returns:
        Rows of `reports.VERSIONS`, the newest version first.
    """
    client = reader(settings)
    aliases = dict(client.get_registered_model(REGISTERED_MODEL).aliases)
    by_version = {str(v): k for k, v in aliases.items()}
    label = matured["label"].to_numpy()
    rows = []
    for version in client.search_model_versions(
        f"name = '{REGISTERED_MODEL}'", max_results=MAX_VERSIONS, order_by=["version_number DESC"]
    ):
        metrics = client.get_run(str(version.run_id)).data.metrics
        alias = by_version.get(str(version.version), "")
        recent = None
        if alias in (CHAMPION, CHALLENGER) and 0 < np.sum(label) < len(label):
            booster = load_alias(settings, alias).booster
            if set(booster.contract.features) <= set(matured.column_names):
                recent = float(average_precision_score(label, booster.score(matured)))
        rows.append(
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
    return rows


def _rows(settings: Settings, since: datetime) -> pa.Table:
    with duckdb_connection(settings) as connection:
        source = read_parquet(files(settings.labels))
        after = f"event_timestamp > '{since.isoformat()}'"
        ((n,),) = connection.execute(f"SELECT count(*) FROM {source} WHERE {after}").fetchall()
        permille = min(1000, MAX_ROWS * 1000 // max(n, 1))
        return connection.sql(
            f"SELECT user_id, item_id, event_timestamp, label, known_at FROM {source} "
            f"WHERE {after} AND md5_number_lower(user_id) % 1000 < {permille} "
            "ORDER BY event_timestamp, user_id, item_id"
        ).to_arrow_table()
