"""Train, validation, calibration and test by time, with gaps for the labels to become known."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nextbuy.errors import NextbuyError


class SplitConfig(BaseModel):
    """How the labelled period is divided."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warm_up_days: float = Field(default=14, ge=0)
    """Rows this early have next to no history behind them and are left out."""
    gap_days: float | None = Field(default=None, gt=0)
    """Between two splits; unset means one horizon."""
    train: float = Field(default=0.6, gt=0, lt=1)
    validation: float = Field(default=0.1, gt=0, lt=1)
    calibration: float = Field(default=0.1, gt=0, lt=1)
    """Shares of what is left after warm-up, gaps and the last horizon; the rest is the test."""

    @model_validator(mode="after")
    def _some_test(self) -> "SplitConfig":
        if self.train + self.validation + self.calibration >= 1:
            raise ValueError("train, validation and calibration leave nothing for the test")
        return self


class Splits(BaseModel):
    """Half-open periods of event timestamps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: tuple[datetime, datetime]
    validation: tuple[datetime, datetime]
    """Decides when fitting stops."""
    calibration: tuple[datetime, datetime]
    """Follows the validation without a gap: two parameters learn from it, and the test is far."""
    test: tuple[datetime, datetime]

    def periods(self) -> dict[str, tuple[datetime, datetime]]:
        """Name -> period, in the order of time."""
        return {
            "train": self.train,
            "validation": self.validation,
            "calibration": self.calibration,
            "test": self.test,
        }

    def known_by(self) -> dict[str, datetime]:
        """Name -> when a row's label must be known: no later than the next period far off begins.

        The test has no such moment but the end of the log.
        """
        return {
            "train": self.validation[0],
            "validation": self.test[0],
            "calibration": self.test[0],
        }


Period = tuple[datetime, datetime]


def split_by_time(
    oldest: datetime,
    newest: datetime,
    horizon: timedelta,
    config: SplitConfig,
    unknown: Sequence[Period] = (),
) -> Splits:
    """Divide the time between the oldest and the newest event.

    The test ends one horizon before the newest event: of later rows, an outcome is known already
    only where the shopper came back, so they would be a biased sample. For the same reason no row
    of the `unknown` periods (in order) has a label: their time does not count as any split's.

    Raises:
        NextbuyError: the log is too short for this horizon.
    """
    gap = timedelta(days=config.gap_days) if config.gap_days else horizon
    start = oldest + timedelta(days=config.warm_up_days)
    known = _Known(start, newest - horizon, unknown)
    usable = known.length - 2 * gap
    if usable <= timedelta(0):
        needed = timedelta(days=config.warm_up_days) + horizon + 2 * gap
        lost = newest - horizon - start - known.length
        without = f", of which {_days(lost)} have no labels for a hole" if lost else ""
        raise NextbuyError(
            f"The log spans {_days(newest - oldest)} days{without}, but warm-up, "
            f"horizon and two gaps alone take {_days(needed)}. "
            "Ingest more days, or shorten the horizon or the gap (nextbuy train --config FILE)."
        )
    train_end = known.later(start, usable * config.train)
    validation_start = train_end + gap
    validation_end = known.later(validation_start, usable * config.validation)
    calibration_end = known.later(validation_end, usable * config.calibration)
    return Splits(
        train=(start, train_end),
        validation=(validation_start, validation_end),
        calibration=(validation_end, calibration_end),
        test=(calibration_end + gap, known.end),
    )


class _Known:
    """The time between two moments in which labels are known."""

    def __init__(self, start: datetime, end: datetime, unknown: Sequence[Period]) -> None:
        edges = [start, *(moment for period in unknown for moment in period), end]
        edges = [min(max(moment, start), end) for moment in edges]
        self._periods = [(a, b) for a, b in list(pairwise(edges))[::2] if a < b]
        self.length = sum((b - a for a, b in self._periods), timedelta(0))
        self.end = self._periods[-1][1] if self._periods else end

    def later(self, moment: datetime, length: timedelta) -> datetime:
        """The moment until which so much known time has passed since `moment`."""
        for a, b in self._periods:
            begin = max(a, moment)
            if begin + length <= b:
                return begin + length
            length -= max(b - begin, timedelta(0))
        return self.end


def _days(length: timedelta) -> str:
    return f"{length.total_seconds() / 86400:.1f}"
