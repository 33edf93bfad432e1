"""A small simulated shop, ingested up to a day: what comes after is there to be sent live."""

import numpy as np
import pyarrow.dataset as ds

from nextbuy.cli import data, serving
from nextbuy.contract import FEATURE_SERVICE, ModelContract
from nextbuy.features import TABLES
from nextbuy.shop import SessionConfig
from tests.shop import register
from tests.tables import build_features, build_labels, build_sessions


def build(settings, shoppers=80, days=60, last=1):
    """Publish and materialize all but the `last` days of arrival; returns the files of those."""
    from generators.shop import ShopConfig, simulate
    from nextbuy.ingest.ingest import publish, stage_events
    from nextbuy.ingest.source import load_sources
    from nextbuy.shop import LabelConfig

    log = settings.raw / "simulated"
    config = ShopConfig(shoppers=shoppers, items=150, days=days, seed=3)
    simulate(config, log, settings.truth, lambda *_: None)
    files = sorted(log.glob("*.parquet"))
    sources = load_sources(data.source_file("simulated"))
    with stage_events(files[:-last], sources, settings) as staged:
        publish(staged)
    build_sessions(settings, SessionConfig())
    build_labels(settings, LabelConfig())
    build_features(settings)
    serving.apply()
    serving.materialize()
    return files[-last:]


def contract(settings):
    """All features of the service: what parity is about, whoever fits a model on them."""
    from feast import FeatureStore

    store = FeatureStore(repo_path=str(settings.feature_repo))
    service = store.get_feature_service(FEATURE_SERVICE)
    names = [f"{p.name}__{f.name}" for p in service.feature_view_projections for f in p.features]
    texts = {f"{t.name}__{f.name}" for t in TABLES for f in t.features if f.dtype == "string"}
    known = {}
    for name in texts.intersection(names):
        view, feature = name.split("__")
        parts = sorted((settings.features / view).resolve().glob("day=*/*.parquet"))
        folder = ds.dataset([str(part) for part in parts])
        values = folder.to_table(columns=[feature])[feature].unique().drop_null()
        known[name] = tuple(sorted(values.to_pylist()))
    return ModelContract(
        feature_service=FEATURE_SERVICE,
        features=tuple(names),
        categories=known,
        family="xgboost",
    )


def fitted(card):
    """Some booster over all features; what it says does not matter here."""
    import xgboost

    random = np.random.default_rng(0)
    matrix = random.integers(0, 10, (500, len(card.features))).astype(np.float32)
    kinds = ["c" if name in card.categories else "q" for name in card.features]
    for i, kind in enumerate(kinds):
        if kind == "c":
            matrix[:, i] = random.integers(0, 2, 500)
    label = (matrix[:, 0] + random.normal(0, 3, 500) > 5).astype(int)
    block = xgboost.DMatrix(matrix, label, feature_types=kinds, enable_categorical=True)
    return xgboost.train({"objective": "binary:logistic", "max_depth": 3}, block, 5)


def with_model(settings):
    """Register a champion over all features."""
    card = contract(settings)
    register(settings, fitted(card), card)
    return card
