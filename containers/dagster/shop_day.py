"""`nextbuy daily` in Dagster: one asset, one schedule, the run record as its metadata.

    dagster dev -f containers/dagster/shop_day.py

It calls the command as cron would, so order, lock, resuming and retraining stay where they are
(docs/operating.md), and Dagster does not import our code: it only needs the path of the command. A
failed day is a failed run, with the command's output; run it again.

Environment: NEXTBUY (the command, `nextbuy` by default), NEXTBUY_DATA, NEXTBUY_LOGS (a day's log,
where `{day}` stands for its date) and NEXTBUY_SOURCE (its mapping). Without logs a day
merges live events only.
"""

import json
import os
import subprocess
from datetime import datetime
from pathlib import Path

import dagster as dg

DAYS = dg.DailyPartitionsDefinition(start_date="2024-01-01")


@dg.asset(partitions_def=DAYS, group_name="nextbuy", pool="nextbuy")
def shop_day(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    """A day taken in: events, sessions, features, Redis, monitoring, a new model when it is due."""
    command = [os.environ.get("NEXTBUY", "nextbuy"), "daily"]
    if logs := os.environ.get("NEXTBUY_LOGS"):
        command += [
            logs.format(day=context.partition_key),
            "--source",
            os.environ["NEXTBUY_SOURCE"],
        ]
    context.log.info(" ".join(command))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    context.log.info(done.stdout)
    if done.returncode:
        raise dg.Failure(
            f"nextbuy daily ended with {done.returncode}",
            metadata={"said": done.stdout[-5000:], **record()},
            allow_retries=False,
        )
    return dg.MaterializeResult(metadata=record())


def record() -> dict[str, dg.MetadataValue]:
    """What the last run wrote down: its steps with their seconds, and what monitoring found."""
    runs = sorted((Path(os.environ["NEXTBUY_DATA"]) / "runs").glob("*.json"))
    if not runs:
        return {}
    found = json.loads(runs[-1].read_text())
    seconds = {
        step["name"]: (
            datetime.fromisoformat(step["ended"]) - datetime.fromisoformat(step["began"])
        ).total_seconds()
        for step in found["steps"]
        if "ended" in step
    }
    return {
        "record": dg.MetadataValue.json(found),
        "seconds": dg.MetadataValue.float(sum(seconds.values())),
        **{f"seconds of {name}": dg.MetadataValue.float(took) for name, took in seconds.items()},
    }


daily_job = dg.define_asset_job("nextbuy_daily", selection=[shop_day])

definitions = dg.Definitions(
    assets=[shop_day],
    jobs=[daily_job],
    schedules=[
        # A quarter past two, UTC, for the day that is over.
        dg.build_schedule_from_partitioned_job(daily_job, hour_of_day=2, minute_of_hour=15)
    ],
)
