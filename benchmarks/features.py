"""All feature tables: how time grows with the log, and windows by change points beside a self-join.

python -m benchmarks.features [--small]

The self-join computes the windowed counts of the user and item tables alone, at a size where it
ends; ours computes the two tables with all their features there.
"""

import argparse
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks import report, shop_log
from nextbuy.settings import Settings

KINDS = ("view", "add_to_cart", "remove_from_cart", "purchase")


def counts(newest: str, windows: tuple[int | None, ...]) -> str:
    """Conditional counts per event type and window over joined events `e`."""
    columns = []
    for kind in KINDS:
        for days in windows:
            inside = f" AND e.at_us > {newest} - {days * 86_400_000_000}" if days else ""
            columns.append(f"count(*) FILTER (e.event_type = '{kind}'{inside})")
    return ", ".join(columns)


def self_join(given: argparse.Namespace) -> dict[str, Any]:
    """Each session end and each item's midnight joined with all events before it."""
    from nextbuy.connection import duckdb_connection
    from nextbuy.versioned_table import files

    settings = Settings(data=Path(given.folder))
    windows = (None, 1, 7, 30)
    with duckdb_connection(settings) as connection:
        connection.execute(
            "CREATE VIEW e AS SELECT user_id, item_id, event_type, session_id, is_bot, "
            f"epoch_us(event_time) AS at_us FROM '{files(settings.sessions)}'"
        )
        begun = time.perf_counter()
        connection.execute(
            f"""CREATE TABLE users AS
            WITH ends AS (SELECT user_id, max(at_us) AS end_us FROM e GROUP BY user_id, session_id)
            SELECT ends.user_id, end_us, {counts("end_us", windows)}
            FROM ends JOIN e ON e.user_id = ends.user_id AND e.at_us <= end_us
            GROUP BY ALL"""
        )
        connection.execute(
            f"""CREATE TABLE items AS
            WITH good AS (SELECT * FROM e WHERE NOT is_bot AND item_id IS NOT NULL),
            midnights AS (
                SELECT DISTINCT item_id,
                    (at_us // 86400000000 + 1 + later) * 86400000000 AS midnight_us
                FROM good, (VALUES (0), (1), (7), (30)) AS v(later))
            SELECT midnights.item_id, midnight_us, {counts("midnight_us", windows)},
                count(DISTINCT e.user_id) FILTER (e.at_us >= midnight_us - 7 * 86400000000),
                count(DISTINCT e.user_id) FILTER (e.at_us >= midnight_us - 30 * 86400000000)
            FROM midnights JOIN good AS e
                ON e.item_id = midnights.item_id AND e.at_us < midnight_us
            GROUP BY ALL"""
        )
        return {"measured": [time.perf_counter() - begun]}


def ours(given: argparse.Namespace) -> dict[str, Any]:
    """The feature tables from published sessions; `--only` names some of them."""
    from nextbuy.tables.build import stage_features

    seconds: dict[str, float] = {}
    rows: dict[str, int] = {}
    last = time.perf_counter()
    with stage_features(Settings(data=Path(given.folder)), given.only.split()) as tables:
        for staged in tables:
            table, now = staged.publish(), time.perf_counter()
            seconds[table.name], rows[table.name] = round(now - last, 2), table.rows
            last = now
    return {"measured": [sum(seconds.values())], "seconds": seconds, "rows": rows}


def scan(given: argparse.Namespace) -> dict[str, Any]:
    """Every column of the sessions read once."""
    from nextbuy.connection import duckdb_connection
    from nextbuy.versioned_table import files

    settings = Settings(data=Path(given.folder))
    with duckdb_connection(settings) as connection:
        begun = time.perf_counter()
        connection.execute(
            f"SELECT bit_xor(hash(s)) FROM '{files(settings.sessions)}' AS s"
        ).fetchall()
        return {"measured": [time.perf_counter() - begun]}


CONTENDERS = {"ours": ours, "self_join": self_join, "scan": scan}


def main() -> None:
    from nextbuy.shop import SessionConfig
    from nextbuy.tables.build import stage_sessions

    given = report.arguments(folder="", only="", sizes="1000000 10000000", joined=500_000)
    if given.contender:
        report.run_contender(CONTENDERS, given)
        return
    sizes = [100_000, 300_000] if given.small else [int(size) for size in given.sizes.split()]
    joined = 100_000 if given.small else given.joined
    seconds: dict[int, float] = {}
    memory: dict[str, float] = {}
    for events in sorted({*sizes, joined}):
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(data=Path(folder))
            shop_log.publish(settings, events)
            with stage_sessions(settings, SessionConfig()) as sessions:
                sessions.publish()
            if events == joined:
                peer = report.measure("benchmarks.features", "self_join", folder=folder)
                floor = report.measure("benchmarks.features", "scan", folder=folder)
                two = report.measure("benchmarks.features", "ours", folder=folder, only="user item")
            if events in sizes:
                result = report.measure("benchmarks.features", "ours", folder=folder)
                seconds[events] = result.median
                memory[f"{events / 1e6:g}M"] = result.peak_memory_gb
                print(f"  {events:,}: {result.values['seconds']}", flush=True)
    growth = {
        f"{b / 1e6:g}M": round(seconds[b] / seconds[a] / (b / a), 3) for a, b in pairwise(sizes)
    }
    print(f"  growth against linear: {growth}")
    report.write(
        "features",
        work=f"user and item table of {report.millions([joined])} events",
        unit="s",
        better="lower",
        ours=two.median,
        peers={"self-join": peer.median},
        floor=floor.median,
        peak_memory_gb={**memory, "self-join": peer.peak_memory_gb},
        small=given.small,
        all_tables_s={f"{events / 1e6:g}M": s for events, s in seconds.items()},
        growth_against_linear=growth,
    )


if __name__ == "__main__":
    main()
