"""The whole chain, small, on the real parts: Redis, MLflow, Feast, BentoML over HTTP."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Environment of a shop on which the demo has run, and what the demo printed."""
    folder = tmp_path_factory.mktemp("shop")
    env = {
        **os.environ,
        "NEXTBUY_DATA": str(folder / "data"),
        "BENTOML_HOME": str(folder / "bentoml"),
        "COLUMNS": "120",
    }
    for name in ("REDIS_URL", "MLFLOW_TRACKING_URI", "NEXTBUY_CONFIG"):
        env.pop(name, None)
    first = run(env, "nextbuy", "demo", "--shoppers", "400", "--days", "130")
    return env, first


def run(env, program, *arguments, cwd=ROOT, code=0):
    done = subprocess.run(
        [BIN / program, *arguments],
        env=env,
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == code, f"{program} {arguments}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_demo_ends_in_a_ranked_prediction_and_the_metrics(shop):
    _, printed = shop
    ranked = re.findall(r"│\s+(\d+) │ (\S+)\s+│\s+([\d.]+)% │", printed)
    assert len(ranked) >= 3
    assert [int(rank) for rank, _, _ in ranked] == list(range(1, len(ranked) + 1))
    chances = [float(chance) for _, _, chance in ranked]
    assert chances == sorted(chances, reverse=True)
    assert "PR-AUC" in printed
    assert "nextbuy serve" in printed


def test_the_champion_beats_every_rule_and_not_the_oracle(shop):
    env, _ = shop
    report = json.loads((Path(env["NEXTBUY_DATA"]) / "reports" / "evaluation.json").read_text())
    value = {name: metrics["pr_auc"]["value"] for name, metrics in report["models"].items()}
    oracle = next(name for name in value if name.startswith("oracle"))
    champion = report["champion"]
    assert value[champion] > max(
        v for n, v in value.items() if n not in (champion, oracle, "logistic regression")
    )
    assert value[champion] <= report["models"][oracle]["pr_auc"]["high"]


@pytest.mark.xfail(reason="the cut after a session's first events does not follow a log-in yet")
def test_scores_early_in_a_session_see_its_first_events_alone_and_are_exact_at_its_end(shop):
    import numpy as np
    import pyarrow as pa

    from nextbuy.connection import duckdb_connection
    from nextbuy.settings import Settings
    from nextbuy.versioned_table import manifest
    from training.dataset import build_dataset
    from training.early_session import KEYS, rows_after
    from training.splits import SplitConfig

    env, _ = shop
    report = json.loads((Path(env["NEXTBUY_DATA"]) / "reports" / "evaluation.json").read_text())
    rows = [report["prefix"][length]["rows"] for length in sorted(report["prefix"], key=int)]
    assert rows == sorted(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NEXTBUY_DATA", env["NEXTBUY_DATA"])
        settings = Settings()
        dataset = build_dataset(settings, SplitConfig())
        test = dataset.part("test")
        whole = test.select([*KEYS, "label"]).append_column(
            "at_end", pa.array(np.zeros(test.num_rows))
        )
        with duckdb_connection(settings) as connection:
            given = (connection, settings, manifest(settings.sessions), whole, dataset.features)
            found = rows_after(*given, [1, 10**9])
    early = found[1].to_pandas()
    assert (early["session__n_events"] == 1).all()
    assert not early.duplicated("user_id").any()
    late = found[10**9].to_pandas().set_index([*KEYS])
    trained = test.to_pandas().set_index([*KEYS]).loc[late.index]
    assert len(late) > len(early) > 50
    for name in dataset.features:
        equal = (late[name] == trained[name]) | (late[name].isna() & trained[name].isna())
        assert equal.all(), name


def test_a_second_run_does_only_what_changed(shop):
    env, first = shop
    second = run(env, "nextbuy", "demo", "--shoppers", "400", "--days", "130")
    assert second.count("(up to date)") >= 10  # events, sessions, labels, six tables, the model
    assert "fitting" in first
    assert "fitting" not in second
    assert "Redis is up to date" in second


def test_feast_materialize_incremental_works_by_itself(shop):
    env, _ = shop
    run(env, "feast", "-c", "feature_repo", "materialize-incremental", "2024-05-10T00:00:00")
    listed = run(env, "feast", "-c", "feature_repo", "feature-services", "list")
    assert "next_session_purchase" in listed


def test_mlflow_holds_both_families_and_the_champion(shop):
    from mlflow.tracking import MlflowClient

    env, _ = shop
    client = MlflowClient(f"sqlite:///{env['NEXTBUY_DATA']}/mlflow/mlflow.db")
    versions = client.search_model_versions("name='nextbuy'")
    assert {version.tags["family"] for version in versions} == {"xgboost", "lightgbm"}
    champion = client.get_model_version_by_alias("nextbuy", "champion")
    run_of_it = client.get_run(champion.run_id)
    assert run_of_it.data.metrics["test_pr_auc"] > 0
    assert run_of_it.data.tags["feature_service"] == "next_session_purchase"


def test_every_page_of_the_dashboard_opens_in_a_browser(shop):
    from tests.monitoring.browser import PAGES, chromium, dashboard, missing, opened

    if missing():
        pytest.skip(missing())
    env, _ = shop
    with dashboard({"NEXTBUY_DATA": env["NEXTBUY_DATA"]}) as url, chromium() as driver:
        shown = {path: opened(driver, url, path) for path in PAGES}
    assert "Champion" in shown["today"]
    assert "as of 2024-" in shown["today"]
    for path in ("today", "quality", "drift", "model", "features"):
        assert "nextbuy monitor`" not in shown[path]
        assert "Run nextbuy" not in shown[path]


def test_monitoring_judges_the_demo_s_data_and_alerts_for_it_is_old(shop):
    env, _ = shop
    printed = run(env, "nextbuy", "monitor", code=1)
    assert re.search(r"ok +events +[\d,]+ rows pass (\d+) of \1 checks", printed)
    assert re.search(r"ok +parity +0 of [\d,]+ live values differ", printed)
    assert re.search(r"ALERT +freshness", printed)


def test_a_daily_run_that_was_killed_goes_on_and_only_one_runs_at_a_time(shop, tmp_path):
    """A new day comes in; the run dies by kill -9 in the middle and is simply run again."""
    import duckdb

    env, _ = shop
    folder = Path(env["NEXTBUY_DATA"])
    newest = max((folder / "raw" / "simulated").glob("*.parquet"))
    log = tmp_path / "tomorrow.parquet"
    duckdb.execute(
        f"COPY (SELECT * REPLACE (event_id || '-next' AS event_id, event_time + INTERVAL 1 DAY "
        f"AS event_time) FROM '{newest}') TO '{log}' (FORMAT parquet)"
    )
    daily = ("daily", str(log), "--source", "simulated", "--at", "newest", "--retrain-days", "999")
    running = subprocess.Popen(
        [BIN / "nextbuy", *daily], env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    for line in running.stdout:
        if line.startswith("sessions and labels"):
            break
    second = subprocess.run(
        [BIN / "nextbuy", *daily], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert second.returncode == 1
    assert f"nextbuy daily (process {running.pid}" in second.stderr
    running.kill()
    running.communicate()

    third = subprocess.run(
        [BIN / "nextbuy", *daily], env=env, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "this one resumes there" in third.stdout, third.stderr
    assert "published   (up to date)" in third.stdout
    records = [json.loads(file.read_text()) for file in sorted((folder / "runs").glob("*.json"))]
    killed, whole = records
    assert "ended" not in killed
    assert "ended" in whole, third.stdout + third.stderr
    assert whole["goes_on_from"] == killed["began"]
    assert whole["monitor"] == third.returncode
    names = [step["name"] for step in whole["steps"]]
    assert names[:7] == [
        "merge live events", "ingest", "sessions and labels", "feature tables", "feast apply",
        "feast materialize", "monitor",
    ]  # fmt: skip
    assert names[7:] in ([], ["train a challenger", "promote, if it passes"])  # if drift was raised
    assert ("a new model is due" in third.stdout) == bool(names[7:])


def test_erasure_knows_every_file_of_a_used_folder(shop):
    from tests.nextbuy.test_places import unknown_files

    env, _ = shop
    assert list(unknown_files(Path(env["NEXTBUY_DATA"]))) == []
