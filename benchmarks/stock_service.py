"""The same answer the ordinary way: stock `get_online_features`, pandas, predict on a DataFrame.

Served by `bentoml serve` with BentoML's defaults; benchmarks/predict.py starts it.
"""

import os
from pathlib import Path

import bentoml
import pandas as pd
from feast import FeatureStore, RepoConfig

from bento.model import read_info
from nextbuy.settings import Settings
from nextbuy.stores.online.redis_server import ensure_running

WORKERS = int(os.environ.get("STOCK_WORKERS", "1"))


@bentoml.service(workers=WORKERS, threads=4)
class Stock:
    def __init__(self) -> None:
        settings = Settings()
        socket = ensure_running(settings).removeprefix("unix://")
        self.store = FeatureStore(
            config=RepoConfig(
                project="nextbuy",
                provider="local",
                registry=str(settings.registry),
                repo_path=settings.feature_repo,
                online_store={
                    "type": "redis",
                    "connection_string": f"localhost:0,unix_socket_path={socket}",
                },
                entity_key_serialization_version=3,
            )
        )
        folder = Path(bentoml.models.get(os.environ["STOCK_MODEL"]).path)
        self.info = read_info(folder)
        self.service = self.store.get_feature_service(self.info.contract.feature_service)
        path = str(folder / self.info.booster)
        if self.info.contract.family == "xgboost":
            import xgboost

            self.model = xgboost.XGBClassifier()
            self.model.load_model(path)
        else:
            import lightgbm

            self.model = lightgbm.Booster(model_file=path)

    @bentoml.api
    def predict(self, user_id: str, item_ids: list[str]) -> list[dict]:
        rows = [{"user_id": user_id, "item_id": item} for item in item_ids]
        frame = self.store.get_online_features(self.service, rows, full_feature_names=True).to_df()
        contract = self.info.contract
        for name, values in contract.categories.items():
            codes = pd.Categorical(frame[name], categories=list(values)).codes
            frame[name] = pd.Series(codes).where(codes >= 0)
        block = frame[list(contract.features)].astype("float32")
        if contract.family == "xgboost":
            probabilities = self.model.predict_proba(block.to_numpy())[:, 1]
        else:
            probabilities = self.model.predict(block)
        answer = pd.DataFrame({"item_id": item_ids, "probability": probabilities})
        return answer.sort_values("probability", ascending=False).to_dict("records")
