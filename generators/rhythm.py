"""When people shop: by hour, weekday and season."""

from datetime import date, timedelta

import numpy as np
from numpy.typing import NDArray

from generators.catalogue import CATEGORIES
from nextbuy.times import DAY

WEEKDAY = np.array([0.95, 0.9, 0.92, 0.95, 1.0, 1.2, 1.25])  # Monday first
HOUR = np.array([0] * 6 + [1, 2, 3, 4, 4, 4, 5, 5, 4, 4, 4, 5, 6, 8, 9, 9, 6, 3], float)
# Sessions begin after 6:00 and end by 3:00, so sessions of different days are always further apart
# than any allowed session gap.
_HOUR_CDF = np.concatenate([[0.0], np.cumsum(HOUR) / HOUR.sum()])
_HOUR_EDGES = np.arange(25) * (DAY // 24)


def traffic(start: date, days: int) -> NDArray[np.float64]:
    """How busy each day is, about 1: by weekday, and by season with the peak in December."""
    dates = [start + timedelta(days=d) for d in range(days)]
    weekday = np.array([d.weekday() for d in dates])
    year_day = np.array([d.timetuple().tm_yday for d in dates])
    factor: NDArray[np.float64] = WEEKDAY[weekday] * (
        1 + 0.15 * np.cos(2 * np.pi * (year_day - 345) / 365)
    )
    return factor


def season(start: date, days: int) -> NDArray[np.float64]:
    """(days, categories): pull of each category on each day, about 1."""
    year_day = np.array([(start + timedelta(days=d)).timetuple().tm_yday for d in range(days)])
    peak = np.array([c.peak_day for c in CATEGORIES])
    pull: NDArray[np.float64] = 1 + 0.35 * np.cos(2 * np.pi * (year_day[:, None] - peak) / 365)
    return pull


def draw_time_of_day(rng: np.random.Generator, size: int) -> NDArray[np.int64]:
    """Microseconds after midnight at which sessions begin."""
    drawn: NDArray[np.float64] = np.interp(rng.random(size), _HOUR_CDF, _HOUR_EDGES)
    return np.minimum(drawn, DAY - 1).astype(np.int64)


def share_begun(time_of_day: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of a day's sessions that begin up to `time_of_day`, as `draw_time_of_day` draws."""
    begun: NDArray[np.float64] = np.interp(time_of_day, _HOUR_EDGES, _HOUR_CDF)
    return begun
