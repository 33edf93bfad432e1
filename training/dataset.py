"""The point-in-time training set, retrieved through Feast and kept by content."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore
from feast.errors import FeatureServiceNotFoundException
from numpy.typing import NDArray

from nextbuy.connection import duckdb_connection
from nextbuy.contract import FEATURE_SERVICE
from nextbuy.errors import NextbuyError
from nextbuy.log_span import Hole
from nextbuy.settings import Settings
from nextbuy.shop import ShopSettings, require_current_tables
from nextbuy.sql import read_parquet
from nextbuy.stores.offline.cached import cached_features
from nextbuy.times import to_datetime, to_us
from nextbuy.versioned_table import files, fingerprint, manifest, require
from nextbuy.writer_lock import sole_writer
from training.metrics import Sample
from training.splits import SplitConfig, Splits, split_by_time

ROW_COLUMNS = ("user_id", "item_id", "event_timestamp", "label", "split")
"""Columns that are no features."""

STRAY_SHARE = 0.001
"""Share of the earliest rows that do not decide where the labelled period begins: real logs hold
a few events from long before (Taobao's has some, ten weeks early)."""


@dataclass(frozen=True)
class Dataset:
    """Labelled rows with the features as they were known at each row's event timestamp.

    `table` has `ROW_COLUMNS` and one column per feature (`view__feature`).
    """

    table: pa.Table
    splits: Splits
    digest: str
    """Equal for equal rows, features and splits."""
    registry: str
    """Identifies what Feast's registry said of the feature service and its views."""
    shop: ShopSettings = field(default_factory=ShopSettings)
    """What labels and features were built with."""

    @property
    def features(self) -> tuple[str, ...]:
        """Full feature names, in the order of the feature service."""
        return tuple(name for name in self.table.column_names if name not in ROW_COLUMNS)

    def part(self, split: str) -> pa.Table:
        """The rows of one split."""
        return self.table.filter(pc.equal(self.table["split"], split))

    def labels(self, split: str) -> NDArray[np.int8]:
        """Labels of one split, in the order of `part`."""
        labels = self.table["label"].filter(pc.equal(self.table["split"], split))
        return np.asarray(labels.to_numpy(), np.int8)


def build_dataset(
    settings: Settings, config: SplitConfig, ago: timedelta = timedelta(0)
) -> Dataset:
    """Label the rows, split them by time, and join the features as of each row's moment.

    `ago` gives the dataset of an earlier day: as if the log had ended that much before its end.
    Feature rows that were created after a row's moment are kept out. The result is cached below
    `datasets/` under the hash of everything it depends on.

    Raises:
        NextbuyError: a table is missing or built with other settings than the shop's, the log is
            too short, a split has only one class, or another process writes the tables.
    """
    with sole_writer(settings, "The building of a training set"):
        return _build(settings, config, ago)


def _build(settings: Settings, config: SplitConfig, ago: timedelta) -> Dataset:
    labels = require(settings.labels, "nextbuy sessionize")
    shop = require_current_tables(settings)
    if not labels.rows:
        raise NextbuyError(
            "There is no row to learn from: no shopper touched an item. "
            "Look at what was ingested with: nextbuy monitor"
        )
    horizon = timedelta(days=shop.labels.horizon_days)
    newest = to_datetime(labels.info["newest_us"]) - ago
    holes = [Hole(*hole) for hole in labels.info.get("holes", ())]
    rows, splits = _labelled_rows(settings, horizon, newest, config, holes)
    store = FeatureStore(repo_path=str(settings.feature_repo))
    try:
        service = store.get_feature_service(FEATURE_SERVICE)
    except FeatureServiceNotFoundException:
        raise NextbuyError(
            f"The Feast registry has no feature service {FEATURE_SERVICE!r}. Register it: "
            "nextbuy apply"
        ) from None
    tables = [
        require(settings.features / projection.name, "nextbuy features").fingerprint
        for projection in service.feature_view_projections
    ]
    features = [
        f"{projection.name}__{feature.name}"
        for projection in service.feature_view_projections
        for feature in projection.features
    ]
    views = [store.get_feature_view(p.name).to_proto() for p in service.feature_view_projections]
    registry = fingerprint(*(str(view.spec) for view in views))
    digest = fingerprint(
        labels.fingerprint,
        tables,
        features,
        config.model_dump(),
        ago.total_seconds(),
        Path(__file__).parent / "dataset.py",
    )
    table = cached_features(
        settings.data / "datasets" / f"{digest}.parquet",
        store,
        service,
        lambda: rows,
        lambda retrieved: retrieved.select([*ROW_COLUMNS, *features]).sort_by(
            [(name, "ascending") for name in ROW_COLUMNS[:3]]
        ),
    )
    return Dataset(table, splits, digest, registry, shop)


def sample_of(part: pa.Table) -> Sample:
    """Labels, shoppers and moments of some rows, for the metrics."""
    return Sample(
        labels=np.asarray(part["label"].to_numpy(), np.int8),
        users=np.asarray(part["user_id"].to_numpy(zero_copy_only=False), object),
        moments=np.asarray(part["event_timestamp"].cast(pa.int64()).to_numpy()),
    )


def _labelled_rows(
    settings: Settings,
    horizon: timedelta,
    newest: datetime,
    config: SplitConfig,
    holes: Sequence[Hole],
) -> tuple[pa.Table, Splits]:
    unknown = [(to_datetime(a) - horizon, to_datetime(b)) for a, b in holes]
    labelled = read_parquet(files(settings.labels))
    with duckdb_connection(settings) as connection:
        ((oldest,),) = connection.execute(
            f"SELECT quantile_disc(event_timestamp, {STRAY_SHARE}) FROM {labelled}"
        ).fetchall()
        splits = split_by_time(oldest.astimezone(UTC), newest, horizon, config, unknown)
        # A label that becomes known only inside the next split would look into it. The gap keeps
        # out all but sessions longer than what the gap adds to the horizon; those rows go.
        known_by = {**splits.known_by(), "test": newest}
        parts = [
            f"SELECT user_id, item_id, event_timestamp, label, '{name}' AS split "
            f"FROM {labelled} WHERE label IS NOT NULL "
            f"AND event_timestamp >= '{start}' AND event_timestamp < '{end}' "
            f"AND known_at <= '{known_by[name]}'"
            for name, (start, end) in splits.periods().items()
        ]
        rows = connection.sql(
            f"{' UNION ALL '.join(parts)} ORDER BY event_timestamp, user_id, item_id"
        ).to_arrow_table()
    for name, (start, end) in splits.periods().items():
        labels = rows.filter(pc.equal(rows["split"], name))["label"]
        n_positive = pc.sum(labels).as_py() or 0
        if not 0 < n_positive < len(labels):
            raise NextbuyError(
                f"The {name} split ({start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC) has "
                f"{n_positive} positive rows of {len(labels)}: a model needs both classes. "
                + _why_one_class(settings, rows, (start, end), holes)
            )
    return rows, splits


def _why_one_class(
    settings: Settings, rows: pa.Table, period: tuple[datetime, datetime], holes: Sequence[Hole]
) -> str:
    """What a split without positive rows, or with nothing else, comes from, and what to do."""
    sessions = manifest(settings.sessions)
    if sessions and "purchase" not in sessions.info["provides"]:
        return "The log has no purchases: map their name under event_types in the source file."
    if not pc.sum(rows["label"]).as_py():
        return (
            "No item was bought in the session after the one that touched it, in all of the log. "
            "Look whether purchases have the shopper's and the item's ids: nextbuy check"
        )
    start, end = (to_us(moment) for moment in period)
    crossing = [hole for hole in holes if hole.after_us < end and hole.before_us > start]
    if crossing:
        return (
            f"The log has no events {', '.join(map(str, crossing))}, so what became of the rows "
            "before is unknown. Ingest what is missing; or, if what comes after does not belong to "
            "the log, set limits.not_after in the source file and ingest it again with --replace."
        )
    return "Ingest more data, or change horizon and split (nextbuy train --config FILE)."
