"""The quality figures: evaluated models of four simulated shops, and of a real log.

python -m benchmarks.models                          # simulated, the default seed and three others
python -m benchmarks.models taobao_userbehavior.csv.gz
"""

import os
import subprocess
import sys
from pathlib import Path

from benchmarks.report import FOLDER

ROOT = Path(__file__).parents[1]
SEEDS = (7, 11, 12, 13)
"""The default one first."""


def run(data: Path, *arguments: str) -> None:
    print("nextbuy", *arguments, flush=True)
    env = {**os.environ, "NEXTBUY_DATA": str(data)}
    subprocess.run([sys.executable, "-m", "nextbuy", *arguments], env=env, cwd=ROOT, check=True)


def chain(data: Path, log: str, source: str, report: Path, *config: str) -> None:
    """Everything from the log to the evaluation; what did not change is not done again."""
    run(data, "ingest", log, "--source", source, "--replace")
    run(data, "sessionize", *config)
    run(data, "features")
    run(data, "apply")
    run(data, "train", *config)
    # The model just trained: an earlier one may be champion in this folder.
    run(data, "evaluate", "--challenger", "--json", str(report), *config)


def main(logs: list[str]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    if logs:
        data = ROOT / "build" / "models" / "taobao"
        config = ("--config", str(ROOT / "configs" / "taobao.yaml"))
        chain(data, str(Path(logs[0]).resolve()), "taobao", FOLDER / "taobao.json", *config)
        return
    for seed in SEEDS:
        data = ROOT / "build" / "models" / f"simulated-{seed}"
        run(data, "simulate", "--seed", str(seed))
        log = f"{data}/raw/simulated/*.parquet"
        chain(data, log, "simulated", FOLDER / f"simulated-{seed}.json")


if __name__ == "__main__":
    main(sys.argv[1:])
