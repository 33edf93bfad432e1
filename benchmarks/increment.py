"""A new day of events: continuing from the last version against building everything.

python -m benchmarks.increment [--small]

The work is all of it: sessions, labels and every feature table, compiled and written. The log of a
year (`--days`) is whole but for its last day; that day comes with late events of the week before,
which were held back. The result of both must be the same, digest by digest.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import report, shop_log
from nextbuy.settings import Settings

LATE = 5
"""Thousandths of the last week's events that come late."""


def build(settings: Settings) -> dict[str, Any]:
    """All tables: seconds of each, and what they hold."""
    from nextbuy.features import TABLES
    from nextbuy.shop import LabelConfig, SessionConfig
    from nextbuy.tables.build import stage_features, stage_labels, stage_sessions
    from nextbuy.tables.writer import StagedTable
    from nextbuy.versioned_table import manifest

    seconds: dict[str, float] = {}
    last = time.perf_counter()

    def publish(staged: StagedTable) -> None:
        nonlocal last
        name = staged.publish().name
        now = time.perf_counter()
        seconds[name], last = round(now - last, 2), now

    with stage_sessions(settings, SessionConfig()) as sessions:
        publish(sessions)
    with stage_labels(settings, LabelConfig()) as labels:
        publish(labels)
    with stage_features(settings) as features:
        for table in features:
            publish(table)
    tables = [settings.sessions, settings.labels, *(settings.features / t.name for t in TABLES)]
    found = {table.name: manifest(table) for table in tables}
    return {
        "measured": [sum(seconds.values())],
        "seconds": seconds,
        "days": {name: one.days for name, one in found.items() if one is not None},
    }


def whole(given: argparse.Namespace) -> dict[str, Any]:
    return build(Settings(data=Path(given.folder) / "whole"))


def increment(given: argparse.Namespace) -> dict[str, Any]:
    return build(Settings(data=Path(given.folder) / "grown"))


def scan(given: argparse.Namespace) -> dict[str, Any]:
    """Every column of the events read once."""
    from nextbuy.connection import duckdb_connection
    from nextbuy.versioned_table import files

    settings = Settings(data=Path(given.folder) / "whole")
    with duckdb_connection(settings) as connection:
        begun = time.perf_counter()
        connection.execute(
            f"SELECT bit_xor(hash(e)) FROM '{files(settings.events)}' AS e"
        ).fetchall()
        return {"measured": [time.perf_counter() - begun]}


CONTENDERS = {"before": increment, "increment": increment, "whole": whole, "scan": scan}


def main() -> None:
    given = report.arguments(folder="", events=10_000_000, days=365)
    if given.contender:
        report.run_contender(CONTENDERS, given)
        return
    events, days = (100_000, 60) if given.small else (given.events, given.days)
    with tempfile.TemporaryDirectory() as folder:
        grown = Settings(data=Path(folder) / "grown")
        shop_log.publish(grown, events, days, days - 1, LATE)
        before = report.measure("benchmarks.increment", "before", folder=folder)
        for data in (grown, Settings(data=Path(folder) / "whole")):
            shop_log.publish(data, events, days)
        ours = report.measure("benchmarks.increment", "increment", folder=folder)
        floor = report.measure("benchmarks.increment", "scan", folder=folder)
        peer = report.measure("benchmarks.increment", "whole", folder=folder)
    assert ours.values["days"] == peer.values["days"], "an increment differs from its rebuild"
    for name, result in (("increment", ours), ("whole", peer)):
        print(f"  {name}: {result.values['seconds']}")
    old, new = before.values["days"], ours.values["days"]
    written = {
        name: sum(old[name].get(day) != digest for day, digest in days.items())
        for name, days in new.items()
    }
    print(f"  days written again: {written}")
    report.write(
        "increment",
        work=f"a day and late events on {report.millions([events])} events of "
        f"{days} days, all tables",
        unit="s",
        better="lower",
        ours=ours.median,
        peers={"whole build": peer.median},
        floor=floor.median,
        peak_memory_gb={"ours": ours.peak_memory_gb, "whole build": peer.peak_memory_gb},
        small=given.small,
        seconds={"ours": ours.values["seconds"], "whole build": peer.values["seconds"]},
        days_written=written,
    )


if __name__ == "__main__":
    main()
