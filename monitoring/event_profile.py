"""Each day of the shop in numbers, and whether the newest days differ from those before.

Checks of rows find impossible values. A changed unit, a renamed category or a crawler leaves every
row possible: what changes is the day. So each day is summed up in a few metrics, and each metric is
compared with its own recent past.
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
from nextbuy.shop import shop_settings
from nextbuy.shop_clock import UTC_CLOCK, ShopClock, shop_clock
from nextbuy.sql import read_parquet
from nextbuy.times import DAY, HOUR

NIGHT = "hour < 6"


class ProfileConfig(BaseModel):
    """When a day, or a week, counts as unusual."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reference_days: int = Field(default=28, ge=14)
    """Days before the compared ones that define what is usual; whole weeks, for the rhythm."""
    week_days: int = Field(default=7, ge=2)
    """Days compared together, to see what moves slowly."""
    day_z: float = Field(default=9, gt=0)
    """Robust standard deviations from the median at which a day is unusual."""
    week_z: float = Field(default=6, gt=0)
    """The same for the mean of a week."""
    range_factor: float = Field(default=0.6, gt=0, lt=1)
    """A count or a price below this share of its smallest, or above its largest over this, is
    unusual however much the past went up and down."""
    vanished_events: int = Field(default=15, ge=1)
    """A kind of event without any has vanished if at least so many were expected."""
    min_events: int = Field(default=200, ge=1)
    """A shop with fewer events a day (at the median) is too small to be compared."""


class Anomaly(BaseModel):
    """A metric outside its usual range."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    span: str
    """`day` or `week`."""
    day: str
    """The newest day compared (ISO)."""
    value: float
    usual: float
    z: float
    """Robust standard deviations between the two; infinite is capped at 999."""
    reason: str
    """What makes it unusual, in words."""

    def __str__(self) -> str:
        when = f"on {self.day}" if self.span == "day" else f"in the week to {self.day}"
        return (
            f"{self.metric} was {self.value:,.4g} {when}, usually {self.usual:,.4g} "
            f"({self.reason}). {REMEDIES[self.metric]}"
        )


class ProfileMetric(NamedTuple):
    """One number a day."""

    name: str
    sql: str
    floor: float
    """Smallest spread assumed: absolute for shares, else relative to the usual value."""
    is_share: bool
    remedy: str
    week_z: float | None = None
    """Limit of a week, where it differs from the configured one."""


def _share(name: str, condition: str, floor: float, remedy: str) -> ProfileMetric:
    return ProfileMetric(name, f"avg(CAST({condition} AS INTEGER))", floor, True, remedy)


PROFILE_METRICS: tuple[ProfileMetric, ...] = (
    ProfileMetric("events", "count(*)", 0.10, False, "Was the day delivered whole, and once?"),
    ProfileMetric(
        "users", "approx_count_distinct(user_id)", 0.10, False, "Are user ids mapped as before?"
    ),
    ProfileMetric(
        "events_per_user",
        "count(*) / approx_count_distinct(user_id)",
        0.15,
        False,
        "Look for crawlers, repeated events, or ids that stand for nobody.",
    ),
    ProfileMetric(
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
    ProfileMetric(
        "median_price",
        "median(price)",
        0.05,
        False,
        "Is price still in the unit of the mapping?",
        week_z=5,  # it wanders less than traffic does
    ),
    ProfileMetric(
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
    ProfileMetric(
        "new_users",
        "approx_count_distinct(user_id) FILTER (first_of_user_id = number) "
        "/ approx_count_distinct(user_id)",
        0.10,
        True,
        "Have user ids changed their form?",
    ),
    ProfileMetric(
        "users_at_night",
        # Of users, not of events: one crawler at work at night is no change of the clock.
        f"approx_count_distinct(user_id) FILTER ({NIGHT}) / approx_count_distinct(user_id)",
        0.05,
        True,
        "Has the log's clock or time zone changed?",
    ),
    ProfileMetric(
        "repeated",
        "1 - approx_count_distinct(hash(user_id, event_time, event_type, item_id)) / count(*)",
        0.03,
        True,
        "The same events under other ids: was something delivered twice?",
    ),
)
REMEDIES = {metric.name: metric.remedy for metric in PROFILE_METRICS}


def daily_profile(settings: Settings, files: str) -> pd.DataFrame:
    """The metrics of each day of the events behind a glob.

    Returns:
        one row per day (`day`, a date) in order, one column per metric.
    """
    with duckdb_connection(settings) as connection:
        clock = shop_clock(shop_settings(settings).time_zone)
        return profile(connection, read_parquet(files), clock)


def profile(
    connection: duckdb.DuckDBPyConnection, events: str, clock: ShopClock = UTC_CLOCK
) -> pd.DataFrame:
    """The metrics of each day (UTC, as events are stored) of the relation `events`.

    What is night is by the shop's clock.
    """
    numbered = (
        f"(SELECT *, epoch_us(event_time) // {DAY} AS number, "
        f"{clock.local_sql('epoch_us(event_time)')} // {HOUR} % 24 AS hour FROM {events})"
    )
    firsts = ", ".join(
        f"{name}_first AS (SELECT {name}, min(number) AS first_of_{name} FROM {numbered} "
        f"WHERE {name} IS NOT NULL GROUP BY 1)"
        for name in ("category", "brand", "item_id", "user_id")
    )
    joins = " ".join(
        f"LEFT JOIN {name}_first USING ({name})"
        for name in ("category", "brand", "item_id", "user_id")
    )
    columns = ", ".join(f"{m.sql} AS {m.name}" for m in PROFILE_METRICS)
    return connection.execute(
        f"WITH {firsts}, per_user AS (SELECT number, user_id, count(*) AS of_user "
        f"FROM {numbered} GROUP BY 1, 2) "
        f"SELECT make_timestamp(number * {DAY})::DATE AS day, {columns} "
        f"FROM {numbered} {joins} LEFT JOIN per_user USING (number, user_id) "
        "GROUP BY number ORDER BY number"
    ).df()


def not_comparable(days: pd.DataFrame, config: ProfileConfig) -> str | None:
    """Why the newest day cannot be compared with the days before it; None if it can."""
    whole = _whole(days)
    least = config.reference_days + config.week_days
    if len(whole) < least:
        return f"{len(whole)} whole days are too few to know what is usual; it takes {least}."
    events = float(whole["events"].iloc[-config.reference_days - 1 : -1].median())
    if events < config.min_events:
        return (
            f"{events:,.0f} events a day at the median are too few to compare days; "
            f"it takes {config.min_events:,}."
        )
    return None


def anomalies(days: pd.DataFrame, config: ProfileConfig) -> list[Anomaly]:
    """What is unusual about the newest day and the newest week, the largest deviation first.

    The last day is assumed complete. Days that are `not_comparable` give nothing: a robust spread
    needs enough of them.

    Args:
        days: the table of `daily_profile`.
        config: how many days are compared, and the limits.
    """
    if not_comparable(days, config):
        return []
    n, whole = config.reference_days, _whole(days)
    unusual = []
    newest = str(whole.index[-1].date())
    spans = (("day", 1, config.day_z), ("week", config.week_days, config.week_z))
    for metric in PROFILE_METRICS:
        values = whole[metric.name].to_numpy(float)
        for span, width, limit_of_span in spans:
            now, past = values[-width:], values[-n - width : -width]
            deviation = _deviation(now, past, metric)
            if deviation is None:
                continue
            value, usual, z = deviation
            limit = (metric.week_z if span == "week" else None) or limit_of_span
            reason = f"{abs(z):.0f} deviations" if abs(z) >= limit else ""
            if not reason and width == 1:
                reason = _out_of_range(value, usual, past, metric, config, whole["events"].iloc[-1])
            if reason:
                unusual.append(
                    Anomaly(
                        metric=metric.name,
                        span=span,
                        day=newest,
                        value=value,
                        usual=usual,
                        z=z,
                        reason=reason,
                    )
                )
    return sorted(unusual, key=lambda a: -abs(a.z))


def _whole(days: pd.DataFrame) -> pd.DataFrame:
    """The metrics by day; a day without any event is a day, too."""
    whole = days.set_index(pd.to_datetime(days["day"])).drop(columns="day")
    if len(whole):
        whole = whole.reindex(pd.date_range(whole.index[0], whole.index[-1]))
        whole["events"] = whole["events"].fillna(0)
    return whole


def _out_of_range(
    value: float,
    usual: float,
    past: NDArray[np.float64],
    metric: ProfileMetric,
    config: ProfileConfig,
    events: float,
) -> str:
    """Why a day is unusual although a varied past makes its deviation small; empty if it is not."""
    least, most = float(np.nanmin(past)), float(np.nanmax(past))
    if metric.is_share:
        has_vanished = value == 0 and least > 0 and usual * events >= config.vanished_events
        return "there was always some" if has_vanished else ""
    if value < least * config.range_factor:
        return f"never below {least:,.4g} before"
    if value * config.range_factor > most:
        return f"never above {most:,.4g} before"
    return ""


def _deviation(
    now: NDArray[np.float64], past: NDArray[np.float64], metric: ProfileMetric
) -> tuple[float, float, float] | None:
    """Value, usual value, and the robust deviations between them; None if the past is unknown.

    The mean of `now` is compared; a longer `now` shrinks the expected spread.
    """
    if np.isnan(past).mean() > 0.5:
        return None
    usual = float(np.nanmedian(past))
    value = float(np.nanmean(now)) if not np.isnan(now).all() else 0.0
    spread = 1.4826 * float(np.nanmedian(np.abs(past - usual)))
    floor = metric.floor if metric.is_share else metric.floor * abs(usual)
    # The days of a week are not independent: their mean varies by more than 1/sqrt(7).
    shrink = len(now) ** 0.25
    z = (value - usual) / max(spread / shrink, floor / 2, 1e-12)
    return value, usual, float(np.clip(z, -999, 999))
