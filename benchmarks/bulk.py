"""Bulk scoring of every shopper, rows a second: ours, and pandas batch by batch.

    python -m benchmarks.bulk [--small]

Takes the data folder as it is after `nextbuy demo`, with each shopper many times. Both read the
same point-in-time features from the same store; the ordinary way turns them into a DataFrame and
predicts on that. The floor is the booster alone, on a matrix that is ready.
"""

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import pandas as pd
import pyarrow as pa
from feast import FeatureStore

from benchmarks import report
from bento.bulk import as_of_newest, open_pairs_query, part_query, score
from bento.export import export_champion
from bento.model import Model, horizon
from bento.reader import bind
from nextbuy.cli.serving import apply
from nextbuy.connection import duckdb_connection
from nextbuy.settings import Settings
from nextbuy.versioned_table import files, new_version, require

TIMES = 60


def multiply(settings: Settings, into: Settings, times: int) -> None:
    """The feature tables with each shopper `times` times, published in another data folder."""
    copies = f"range({times}) copies(n)"
    with duckdb_connection(settings) as connection:
        for table in [settings.sessions, *sorted(settings.features.glob("[!.]*"))]:
            source, found = files(table), require(table, "nextbuy demo")
            columns = connection.execute(f"DESCRIBE FROM read_parquet('{source}')").fetchall()
            whose = any(column[0] == "user_id" for column in columns)
            many = whose and table != settings.sessions  # of the sessions, only the end counts
            chosen = "* REPLACE (user_id || '-' || n AS user_id)" if many else "*"
            place = into.data / table.relative_to(settings.data)
            with new_version(place, inputs=f"{times} times", info=found.info) as version:
                file = version.file(as_of_newest(settings).date())
                connection.execute(
                    f"COPY (SELECT {chosen} FROM read_parquet('{source}')"
                    f"{f', {copies}' if many else ''}) TO '{file}' (FORMAT parquet)"
                )


def rate(rows: int, started: float) -> float:
    return rows / (time.perf_counter() - started)


def opened(settings: Settings) -> tuple[Model, Any]:
    tag = export_champion(settings)
    return Model(tag, Path(bentoml.models.get(tag).path), threads=os.cpu_count() or 1), tag


def retrieved(settings: Settings, model: Model) -> Any:
    store = FeatureStore(repo_path=str(settings.feature_repo))
    as_of = as_of_newest(settings)
    return store.get_historical_features(
        entity_df=part_query(
            open_pairs_query(settings, as_of, horizon(model.contract, settings)), as_of, 0, 1
        ),
        features=bind(store, model.contract).service,
        full_feature_names=True,
        filter_by_created_timestamp=True,
    )


def ours(given: argparse.Namespace) -> dict[str, Any]:
    settings = Settings()
    measured = []
    for _ in range(given.repeats):
        shutil.rmtree(settings.data / "scores", ignore_errors=True)
        started = time.perf_counter()
        measured.append(rate(score(settings, at=as_of_newest(settings)).rows, started))
    return {"measured": measured}


def pandas(given: argparse.Namespace) -> dict[str, Any]:
    settings = Settings()
    measured = []
    for _ in range(given.repeats):
        started = time.perf_counter()
        model, _ = opened(settings)
        frame = retrieved(settings, model).to_df()
        for name, values in model.contract.categories.items():
            codes = pd.Categorical(frame[name], categories=list(values)).codes
            frame[name] = pd.Series(codes).where(codes >= 0)
        block = frame[list(model.contract.features)].astype("float32").to_numpy()
        frame["probability"] = model.booster.predict(block)
        frame["rank"] = frame.groupby("user_id")["probability"].rank(method="first")
        out = settings.data / "scores-pandas.parquet"
        frame[["user_id", "item_id", "probability", "rank"]].to_parquet(out)
        out.unlink()
        measured.append(rate(len(frame), started))
    return {"measured": measured}


def booster(given: argparse.Namespace) -> dict[str, Any]:
    settings = Settings()
    model, _ = opened(settings)
    blocks = [
        model.contract.matrix(pa.Table.from_batches([batch]))
        for batch in retrieved(settings, model).to_reader()
        if batch.num_rows
    ]
    block = np.concatenate(blocks)
    measured = []
    for _ in range(given.repeats):
        started = time.perf_counter()
        model.booster.predict(block)
        measured.append(rate(len(block), started))
    return {"measured": measured, "rows": len(block)}


CONTENDERS: dict[str, report.Contender] = {"ours": ours, "pandas": pandas, "floor": booster}


def main(small: bool) -> None:
    given = Settings()
    os.environ["MLFLOW_TRACKING_URI"] = given.tracking_uri
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NEXTBUY_DATA"] = folder
        multiply(given, Settings(), 2 if small else TIMES)
        apply()
        results = {
            name: report.measure("benchmarks.bulk", name, repeats=1 if small else 3)
            for name in CONTENDERS
        }
    floor, mine = results.pop("floor"), results.pop("ours")
    report.write(
        "bulk",
        work=f"every shopper's latest items, {floor.values['rows']:,} rows",
        unit="rows/s",
        better="higher",
        ours=mine.median,
        peers={peer: result.median for peer, result in results.items()},
        floor=floor.median,
        peak_memory_gb={
            "ours": mine.peak_memory_gb,
            **{peer: result.peak_memory_gb for peer, result in results.items()},
        },
        small=small,
    )


if __name__ == "__main__":
    given = report.arguments(repeats=1)
    if given.contender:
        report.run_contender(CONTENDERS, given)
    else:
        main(given.small)
