"""What acting on the scores is worth: whom to contact, and the profit of it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

OLD_NAMES = {"gain_cents": "margin_cents", "contact_cents": "cost_cents"}
"""Keys of earlier config files -> what they are called now."""


class ContactEconomics(BaseModel):
    """What a contact about an item costs and earns, for training and monitoring alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    margin_cents: float = Field(default=1_500, gt=0)
    """Earned when a contacted row is a purchase."""
    cost_cents: float = Field(default=250, gt=0)
    """Of one contact, the offer included, whether or not it ends in a purchase."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_old_names(cls, values: Any) -> Any:
        old = [name for name in OLD_NAMES if isinstance(values, dict) and name in values]
        if old:
            raise ValueError("; ".join(f"{name} is now called {OLD_NAMES[name]}" for name in old))
        return values


class OfferConfig(ContactEconomics):
    """The economics of an offer to many shoppers."""

    budget_cents: float | None = Field(default=None, gt=0)
    """Spent on contacts at most; unset: as much as pays."""


def profit(
    labels: NDArray[np.int8],
    probability: NDArray[np.float64],
    offer: OfferConfig,
    points: int = 101,
) -> dict[str, Any]:
    """The profit of contacting the likeliest rows, as expected and as it turned out.

    A contact is expected to earn `p * margin - cost`, so with calibrated probabilities the
    threshold that maximizes profit is `cost / margin` (Elkan, 2001), raised where the budget ends
    earlier. It is chosen from the probabilities alone; the labels only say what came of it. It
    counts purchases that a contact finds, whether or not it causes them: that is the question of
    `training.uplift`.

    Returns:
        `{"threshold", "contacts", "expected_cents_per_contact", "realized_cents_per_contact",
        "expected_cents", "realized_cents", "best_realized_cents", "curve": [{"share",
        "expected_cents", "realized_cents"}, ...]}`; a value per contact is 0 without contacts.
    """
    order = np.argsort(-probability, kind="stable")
    sure, happened = probability[order], labels[order].astype(float)
    expected = np.concatenate([[0.0], np.cumsum(sure * offer.margin_cents - offer.cost_cents)])
    realized = np.concatenate([[0.0], np.cumsum(happened * offer.margin_cents - offer.cost_cents)])
    paying = int((sure > offer.cost_cents / offer.margin_cents).sum())
    affordable = len(sure)
    if offer.budget_cents is not None:
        affordable = int(offer.budget_cents // offer.cost_cents)
    contacts = min(paying, affordable)
    at = np.unique(np.linspace(0, len(sure), points).astype(int))
    return {
        "threshold": float(sure[contacts - 1]) if contacts else 1.0,
        "contacts": contacts,
        "expected_cents_per_contact": float(expected[contacts] / max(contacts, 1)),
        "realized_cents_per_contact": float(realized[contacts] / max(contacts, 1)),
        "expected_cents": float(expected[contacts]),
        "realized_cents": float(realized[contacts]),
        "best_realized_cents": float(realized[: affordable + 1].max()),
        "curve": [
            {
                "share": float(n / len(sure)),
                "expected_cents": float(expected[n]),
                "realized_cents": float(realized[n]),
            }
            for n in at
        ],
    }
