"""How each day of the shop looks in numbers, and whether the newest days look like those before.

Row rules see impossible values. A unit change, a renamed category or a crawler leaves every row
possible: what changes is the day. So each day is summed up in a few measures, and a measure is
held against its own recent past.
"""

from typing import NamedTuple

import duckdb
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from nextbuy.connection import duckdb_connection
from nextbuy.events import EventType
from nextbuy.settings import Settings
from nextbuy.sql import read_parquet
from nextbuy.times import DAY

NIGHT = "epoch_us(event_time) // 3600000000 % 24 < 6"


class ProfileConfig(BaseModel):
    """When a day, or a week, is told apart from the past."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference_days: int = Field(default=28, ge=14)
    """Days before the judged ones that say what is usual; whole weeks, for the weekly rhythm."""
    week_days: int = Field(default=7, ge=2)
    """Days judged together, to see what moves slowly."""
    day_z: float = Field(default=8, gt=0)
    """Robust standard deviations from the median at which a day is unusual."""
    week_z: float = Field(default=5, gt=0)
    """The same for the mean of a week."""
    range_factor: float = Field(default=0.6, gt=0, lt=1)
    """A count or a price below this share of its smallest, or above its largest over this, is
    unusual however much the past went up and down."""
    vanished_events: int = Field(default=15, ge=1)
    """From how many expected events on a kind of event without any is said to have vanished."""
    min_events: int = Field(default=200, ge=1)
    """A day with fewer events (at the median) is too small to be judged."""


class Anomaly(BaseModel):
    """A measure that left its past."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    measure: str
    span: str
    """`day` or `week`."""
    day: str
    """The newest day judged (ISO)."""
    value: float
    usual: float
    z: float
    """Robust standard deviations between the two; infinite is capped at 999."""
    reason: str
    """What makes it unusual, in words."""

    def __str__(self) -> str:
        when = f"on {self.day}" if self.span == "day" else f"in the week to {self.day}"
        return (
            f"{self.measure} was {self.value:,.4g} {when}, usually {self.usual:,.4g} "
            f"({self.reason}). {REMEDIES[self.measure]}"
        )


class Measure(NamedTuple):
    """One number per day."""

    name: str
    sql: str
    floor: float
    """Smallest spread taken for real: of the value itself for shares, else relative to it."""
    is_share: bool
    remedy: str


def _share(name: str, condition: str, floor: float, remedy: str) -> Measure:
    return Measure(name, f"avg(CAST({condition} AS INTEGER))", floor, True, remedy)


MEASURES: tuple[Measure, ...] = (
    Measure("events", "count(*)", 0.10, False, "Was the day delivered whole, and once?"),
    Measure(
        "users", "approx_count_distinct(user_id)", 0.10, False, "Are user ids mapped as before?"
    ),
    Measure(
        "events_per_user",
        "count(*) / approx_count_distinct(user_id)",
        0.15,
        False,
        "Look for crawlers, repeated events, or ids that stand for nobody.",
    ),
    Measure(
        "largest_user_share",
        "max(of_user) / count(*)",
        0.12,  # a shop has its crawlers
        True,
        "One user has an unusual part of the day: a crawler, or an id that stands for nobody.",
    ),
    *(
        _share(
            f"share_{kind}",
            f"event_type = '{kind}'",
            0.03,
            f"Does the log still name {kind} events as the mapping expects?",
        )
        for kind in EventType
    ),
    Measure(
        "median_price", "median(price)", 0.05, False, "Is price still in the unit of the mapping?"
    ),
    Measure(
        "median_purchase_price",
        f"median(price) FILTER (event_type = '{EventType.PURCHASE}')",
        0.20,
        False,
        "Is price still in the unit of the mapping?",
    ),
    _share("discounted", "coalesce(discount, 0) > 0", 0.15, "Is discount still mapped?"),
    *(
        _share(f"missing_{name}", f"{name} IS NULL", 0.01, f"Does the log still bring {name}?")
        for name in ("item_id", "category", "brand", "price", "discount", "source_session_id")
    ),
    *(
        _share(
            f"new_{name}",
            f"coalesce(first_of_{name} = number, false)",
            0.02,
            f"Were values of {name} renamed, or its ids changed?",
        )
        for name in ("category", "brand", "item_id")
    ),
    Measure(
        "new_users",
        "approx_count_distinct(user_id) FILTER (first_of_user_id = number) "
        "/ approx_count_distinct(user_id)",
        0.10,
        True,
        "Have user ids changed their form?",
    ),
    Measure(
        "users_at_night",
        # Of users, not of events: one crawler at work at night is no change of the clock.
        f"approx_count_distinct(user_id) FILTER ({NIGHT}) / approx_count_distinct(user_id)",
        0.05,
        True,
        "Has the log's clock or time zone changed?",
    ),
    Measure(
        "repeated",
        "1 - approx_count_distinct(hash(user_id, event_time, event_type, item_id)) / count(*)",
        0.03,
        True,
        "The same events under other ids: was something delivered twice?",
    ),
)
REMEDIES = {measure.name: measure.remedy for measure in MEASURES}


def daily_profile(settings: Settings, files: str) -> pd.DataFrame:
    """The measures of each day of the events behind a glob.

    Returns:
        one row per day (`day`, a date) in order, one column per measure.
    """
    with duckdb_connection(settings) as connection:
        return profile(connection, read_parquet(files))


def profile(connection: duckdb.DuckDBPyConnection, events: str) -> pd.DataFrame:
    """The measures of each day of the relation `events`."""
    numbered = f"(SELECT *, epoch_us(event_time) // {DAY} AS number FROM {events})"
    firsts = ", ".join(
        f"{name}_first AS (SELECT {name}, min(number) AS first_of_{name} FROM {numbered} "
        f"WHERE {name} IS NOT NULL GROUP BY 1)"
        for name in ("category", "brand", "item_id", "user_id")
    )
    joins = " ".join(
        f"LEFT JOIN {name}_first USING ({name})"
        for name in ("category", "brand", "item_id", "user_id")
    )
    columns = ", ".join(f"{m.sql} AS {m.name}" for m in MEASURES)
    return connection.execute(
        f"WITH {firsts}, per_user AS (SELECT number, user_id, count(*) AS of_user "
        f"FROM {numbered} GROUP BY 1, 2) "
        f"SELECT make_timestamp(number * {DAY})::DATE AS day, {columns} "
        f"FROM {numbered} {joins} LEFT JOIN per_user USING (number, user_id) "
        "GROUP BY number ORDER BY number"
    ).df()


def anomalies(days: pd.DataFrame, config: ProfileConfig) -> list[Anomaly]:
    """What is unusual about the newest day and the newest week, the strangest first.

    The last day is taken for whole. Too short a past, or too small a shop, gives nothing: a
    robust spread needs days to stand on.
    """
    n = config.reference_days
    whole = days.set_index(pd.to_datetime(days["day"])).drop(columns="day")
    if len(whole):  # a day without any event is a day, too
        whole = whole.reindex(pd.date_range(whole.index[0], whole.index[-1]))
        whole["events"] = whole["events"].fillna(0)
    if len(whole) < n + config.week_days:
        return []
    if float(whole["events"].iloc[-n - 1 : -1].median()) < config.min_events:
        return []
    found = []
    newest = str(whole.index[-1].date())
    spans = (("day", 1, config.day_z), ("week", config.week_days, config.week_z))
    for measure in MEASURES:
        values = whole[measure.name].to_numpy(float)
        for span, width, limit in spans:
            now, past = values[-width:], values[-n - width : -width]
            seen = _deviation(now, past, measure)
            if seen is None:
                continue
            value, usual, z = seen
            reason = f"{abs(z):.0f} deviations" if abs(z) >= limit else ""
            if not reason and width == 1:
                reason = _beyond(value, usual, past, measure, config, whole["events"].iloc[-1])
            if reason:
                found.append(
                    Anomaly(
                        measure=measure.name,
                        span=span,
                        day=newest,
                        value=value,
                        usual=usual,
                        z=z,
                        reason=reason,
                    )
                )
    return sorted(found, key=lambda a: -abs(a.z))


def _beyond(
    value: float,
    usual: float,
    past: NDArray[np.float64],
    measure: Measure,
    config: ProfileConfig,
    events: float,
) -> str:
    """Why a day is unusual although a restless past lets its deviation look small; or nothing."""
    least, most = float(np.nanmin(past)), float(np.nanmax(past))
    if measure.is_share:
        is_gone = value == 0 and least > 0 and usual * events >= config.vanished_events
        return "there was always some" if is_gone else ""
    if value < least * config.range_factor:
        return f"never below {least:,.4g} before"
    if value * config.range_factor > most:
        return f"never above {most:,.4g} before"
    return ""


def _deviation(
    now: NDArray[np.float64], past: NDArray[np.float64], measure: Measure
) -> tuple[float, float, float] | None:
    """Value, what is usual, and the robust deviations between them; None where nothing is known.

    The past is averaged over spans as long as `now`, so that a week is held against weeks.
    """
    if np.isnan(past).mean() > 0.5:
        return None
    usual = float(np.nanmedian(past))
    value = float(np.nanmean(now)) if not np.isnan(now).all() else 0.0
    spread = 1.4826 * float(np.nanmedian(np.abs(past - usual)))
    floor = measure.floor if measure.is_share else measure.floor * abs(usual)
    # The days of a week are not independent: their mean varies by more than 1/sqrt(7).
    shrink = len(now) ** 0.25
    z = (value - usual) / max(spread / shrink, floor / 2, 1e-12)
    return value, usual, float(np.clip(z, -999, 999))
