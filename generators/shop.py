"""Simulates a shop day by day: a log to train on, and the true probability behind each label."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from generators import rhythm
from generators.bots import crawl
from generators.catalogue import create_catalogue
from generators.clicks import LOGIN, Clicks
from generators.config import MAX_AWAY, ShopConfig
from generators.daily_offer import plan_daily_offer
from generators.intent import World
from generators.noise import arrivals
from generators.session import run_sessions, score_matured
from generators.shoppers import create_shoppers
from generators.state import ShopperItemState, ShopState
from generators.truth import OracleScore
from generators.writer import DayFiles, event_table, replaced, truth_table
from nextbuy.times import DAY
from nextbuy.versioned_table import fingerprint, new_version

__all__ = ["ShopConfig", "SimulationSummary", "inputs", "open_shop", "simulate"]

BATCH = 4096
"""Shoppers simulated at once; bounds the memory."""
COUNTED = (
    "events", "late_events", "duplicate_events", "bot_events", "bot_runs", "log_ins", "sessions",
    "truth_rows",
)  # fmt: skip


class SimulationSummary(BaseModel):
    """What a simulation wrote."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    events: int
    """Different events, those of bots included, duplicates not."""
    late_events: int
    duplicate_events: int
    bot_events: int
    bot_runs: int
    log_ins: int
    sessions: int
    """Of shoppers."""
    shoppers: int
    """Shoppers who came at least once."""
    anonymous_visitors: int
    """Shoppers who came and began as anonymous visitors."""
    truth_rows: int
    matured_rows: int
    """Truth rows whose whole horizon lies in the simulated days. Only these are without bias:
    among later rows, outcomes of shoppers who come back are known sooner."""
    base_rate: float
    """Share of matured rows that were bought."""
    oracle_pr_auc: float
    """Average precision of the true probability on the matured rows: the best a model can reach."""


def inputs(config: ShopConfig) -> str:
    """Fingerprint of a simulation: the settings and the simulator's own code.

    Equal to the `inputs` of the truth table's manifest when there is nothing to do.
    """
    return fingerprint(config.model_dump(mode="json"), Path(__file__).parent)


def simulate(
    config: ShopConfig,
    log_folder: Path,
    truth_folder: Path,
    progress: Callable[[int, int], None] | None = None,
) -> SimulationSummary:
    """Simulate the shop and replace both folders with the result.

    The log is one Parquet file of canonical events per day of arrival, in order of arrival. The
    truth is a published table of one row per (user, touched item, session); see `truth_table`.
    Equal settings give equal bytes.

    Args:
        config: the shop.
        log_folder: becomes `arrival=YYYY-MM-DD.parquet` files.
        truth_folder: becomes a table that `nextbuy.versioned_table` knows how to read.
        progress: called with (days done, all days) after each day.

    Raises:
        NextbuyError: another run is writing the same truth.
    """
    info = {"horizon_days": config.horizon_days}  # what its probabilities are about
    with new_version(truth_folder, inputs(config), info) as truth, replaced(log_folder) as log:
        summary = _run(
            config,
            DayFiles(lambda day: log / f"arrival={day}.parquet", ("event_id",)),
            DayFiles(truth.file, ("user_id", "item_id")),
            progress or (lambda done, days: None),
        )
        (truth.folder / "summary.json").write_text(summary.model_dump_json(indent=1))
    return summary


def open_shop(config: ShopConfig) -> tuple[World, ShopState]:
    """The shop and its shoppers on the morning of the first day."""
    rng = _stream(config, 0)
    catalogue = create_catalogue(config, rng)
    daily_offer = plan_daily_offer(config, catalogue, rng)
    shoppers = create_shoppers(config, rng)
    days = config.days + MAX_AWAY + 2
    season, traffic = rhythm.season(config.start, days), rhythm.traffic(config.start, days)
    state = ShopState(
        items=ShopperItemState.empty(config.shoppers),
        wallet=shoppers.budget.copy(),
        last_end=np.full(config.shoppers, -1, np.int64),
        next_start=shoppers.first_visit.copy(),
        guest=shoppers.guest.copy(),
        offered=np.zeros(config.shoppers, bool),
    )
    return World(catalogue, daily_offer, shoppers, season, traffic), state


def _run(
    config: ShopConfig, log: DayFiles, truth: DayFiles, progress: Callable[[int, int], None]
) -> SimulationSummary:
    world, state = open_shop(config)
    score, tally = OracleScore(), Counter(dict.fromkeys(COUNTED, 0))
    for day in range(config.days):
        rng = _stream(config, 1 + day)
        midnight = config.begin + (day + 1) * DAY

        def record(clicks: Clicks, day: int = day, rng: np.random.Generator = rng) -> None:
            first_id, session = tally["events"], tally["sessions"] + tally["bot_runs"]
            rows = event_table(world, clicks, day, first_id, session)
            which, arrival, late, duplicates = arrivals(config, clicks.time, rng)
            log.add(rows.take(pa.array(which)), pa.array(arrival))
            tally.update(events=clicks.time.size, late_events=late, duplicate_events=duplicates)

        # A shopper who comes back on the same day is due again in a later round.
        while (due := np.flatnonzero(state.next_start < midnight)[:BATCH]).size:
            clicks, rows = run_sessions(config, world, state, due, score, rng)
            record(clicks)
            truth.add(truth_table(world, rows), pa.array(rows.time))
            log_ins = int((clicks.kind == LOGIN).sum())
            tally.update(sessions=due.size, log_ins=log_ins, truth_rows=rows.time.size)
        if (crawled := crawl(config, world.shoppers, day, rng)) is not None:
            record(crawled)
            tally.update(bot_runs=int(crawled.session[-1]) + 1, bot_events=crawled.time.size)
        log.close_day(midnight)
        truth.close_day(midnight)
        progress(day + 1, config.days)
    log.close(config.end + DAY)
    truth.close(config.end + DAY)
    score_matured(config, score, state.items, state.last_end, np.zeros_like(state.items.touched))
    came = state.last_end >= 0
    return SimulationSummary(
        **tally,
        shoppers=int(came.sum()),
        anonymous_visitors=int((came & world.shoppers.guest).sum()),
        matured_rows=score.rows,
        base_rate=score.base_rate,
        oracle_pr_auc=score.average_precision,
    )


def _stream(config: ShopConfig, part: int) -> np.random.Generator:
    """Random numbers of one part of the run: 0 makes the shop, n its n-th day."""
    return np.random.default_rng(np.random.SeedSequence(config.seed, spawn_key=(part,)))
