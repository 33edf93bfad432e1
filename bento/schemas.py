"""Types of the service's requests and responses; every field of a request is bounded."""

from datetime import datetime
from typing import Annotated, Literal

from bentoml import IODescriptor
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from bento.settings import EXPLAINED, MAX_BATCH, MAX_ITEMS, MAX_REASONS

Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Number = Annotated[float, Field(allow_inf_nan=False, strict=True)]  # `true` is no number
Category = Annotated[str, StringConstraints(max_length=256)]


class PredictRequest(IODescriptor):  # type: ignore[misc]  # BentoML has no types for it
    """Which of these items will the shopper buy in their next session?"""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={
            "example": {"user_id": "u000042", "item_ids": ["i00007", "i00008"], "reasons": 3}
        },
    )

    user_id: Id
    item_ids: Annotated[list[Id], Field(min_length=1, max_length=MAX_ITEMS)] | None = None
    """Left out: the items that the shopper touched lately. Duplicates count once."""
    untouched: Annotated[bool, Field(strict=True)] = False
    """Answer for items that the shopper never touched, too: no model has learned from such pairs,
    so their probabilities are no more than a guess of their order."""
    context: Annotated[
        dict[
            Id,
            Annotated[
                dict[Id, Number | Category | None], Field(min_length=1, max_length=MAX_ITEMS)
            ],
        ],
        Field(max_length=MAX_ITEMS),
    ] = Field(default_factory=dict)
    """Item -> feature -> what it is right now, in place of the stored value (`null`: missing)."""
    reasons: Annotated[int, Field(ge=0, le=MAX_REASONS, strict=True)] = 0
    """How many reasons to give for each of the ten likeliest items."""

    @field_validator("context")
    @classmethod
    def _only_requested_items(
        cls, context: dict[str, dict[str, float | str | None]], info: ValidationInfo
    ) -> dict[str, dict[str, float | str | None]]:
        if "item_ids" in info.data and not context.keys() <= set(info.data["item_ids"] or ()):
            raise ValueError("context may only name items that item_ids names")
        return context


class BatchRequest(IODescriptor):  # type: ignore[misc]
    """Requests for several shoppers, answered together."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        json_schema_extra={
            "example": {"requests": [{"user_id": "u000042"}, {"user_id": "u000043"}]}
        },
    )

    requests: Annotated[list[PredictRequest], Field(min_length=1, max_length=MAX_BATCH)]

    @model_validator(mode="after")
    def _few_reasons(self) -> "BatchRequest":
        if sum(request.reasons > 0 for request in self.requests) > EXPLAINED:
            raise ValueError(f"at most {EXPLAINED} requests of a batch may ask for reasons")
        return self


class Reason(BaseModel):
    """One feature's part in the probability."""

    feature: str
    """`view__feature`."""
    text: str
    """The same in plain words."""
    effect: float
    """Change of the log-odds; above 0 speaks for a purchase."""


ItemState = Literal["open", "expired", "untouched", "unknown"]
"""`open`: the shopper touched the item, and the horizon runs. `expired`: the horizon is over.
`untouched`: the shopper never touched it. `unknown`: Redis was away, so nobody can tell."""


class ScoredItem(TypedDict):  # an answer has up to 500: as models they would take a millisecond
    """One item and how likely its purchase is."""

    item_id: str
    probability: float | None
    """That the shopper buys the item in the next session, if it begins before `horizon_ends`. Null
    where there is no such question: `expired` items, and `untouched` ones unless requested."""
    rank: int | None
    """1 is the likeliest; ties go by item id. Null without a probability."""
    state: ItemState
    touched_at: datetime | None
    """The last event of the session in which the shopper last touched the item."""
    horizon_ends: datetime | None
    """Until when the next session may begin, counted from there."""
    cold_start: bool
    """Nothing is known of this item: its features are missing values to the model."""
    features_at: dict[str, datetime | None]
    """Feature view -> when its values became known; null where there are none."""
    reasons: list[Reason] | None
    """The strongest first; null if none were requested, or for all but the ten likeliest."""


class Prediction(BaseModel):
    """The answer to one request."""

    request_id: str
    user_id: str
    model: str
    predicted_at: datetime
    as_of: datetime
    """The moment at which the horizons were looked at: `predicted_at`, unless the service was
    started for a log of the past (`nextbuy serve --at newest`)."""
    last_event_at: datetime | None
    """The shopper's last event; null if none is known, or if there was no item to answer for."""
    age_seconds: float | None
    """From the shopper's last event to `as_of`."""
    horizon_ends: datetime | None
    """One horizon after the shopper's last event. What was touched before that event ends earlier:
    see each item."""
    cold_start: bool
    """Nothing is known of this shopper."""
    degraded: bool
    """Redis did not answer in time: item features as last seen here, shopper features missing."""
    features_at: dict[str, datetime | None]
    """The shopper's own feature views, as in `items`."""
    items: list[ScoredItem]
    """By rank, then those without a probability, the one touched last first. Empty if no items were
    named and none is known that the shopper touched lately."""


class BatchResponse(BaseModel):
    """The answers, in the order of the requests."""

    predictions: list[Prediction]
