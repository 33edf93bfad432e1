"""Settings of the simulated shop."""

from datetime import UTC, date, datetime
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from nextbuy.times import DAY, SECOND

MAX_AWAY = 60
"""Days after which a shopper does not come back."""

Share = Annotated[float, Field(ge=0, le=0.5)]


class ShopConfig(BaseModel):
    """Size, period, noise and seed of one simulated shop.

    >>> ShopConfig(shoppers=50, days=40).seed
    7
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    shoppers: int = Field(default=2_500, ge=1)
    items: int = Field(default=1_200, ge=24)
    days: int = Field(default=180, ge=1)
    start: date = date(2024, 1, 1)
    seed: int = Field(default=7, ge=0)
    horizon_days: int = Field(default=30, ge=1, le=MAX_AWAY)
    """The truth asks for a purchase in the next session, begun within this many days."""
    session_gap_minutes: int = Field(default=30, ge=5, le=60)
    """Events of a session stay closer together than this, sessions further apart."""

    guest_share: Share = 0.15
    """Shoppers who begin as anonymous visitors."""
    sign_up_rate: Share = 0.15
    """Probability that a returning guest signs up."""
    logged_out_share: Share = 0.05
    """Sessions of members that begin on a device where they are not yet logged in."""
    offer_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that a session ends with an offer for the next one, at random. 0: no offers."""
    bots: int = Field(default=12, ge=0)
    bot_daily_rate: Share = 0.05
    """Probability that a bot crawls the shop on a given day."""
    late_share: Share = 0.005
    """Events that arrive minutes to two days after they happened."""
    duplicate_share: Share = 0.005
    """Events that arrive a second time, up to a day later."""

    @property
    def begin(self) -> int:
        """First microsecond of the first day."""
        return int(datetime(*self.start.timetuple()[:3], tzinfo=UTC).timestamp()) * SECOND

    @property
    def end(self) -> int:
        """First microsecond after the last day."""
        return self.begin + self.days * DAY

    @property
    def matured_until(self) -> int:
        """The last moment whose whole horizon lies in the simulated days."""
        return self.end - self.horizon_days * DAY

    @property
    def gap(self) -> int:
        """The session gap in microseconds."""
        return self.session_gap_minutes * 60 * SECOND
