"""The registered model families: one module each, one line here."""

from nextbuy.errors import NextbuyError
from nextbuy.models import lightgbm_family, xgboost_family
from nextbuy.models.family import Family

FAMILIES: dict[str, Family] = {
    "xgboost": xgboost_family,
    "lightgbm": lightgbm_family,
}
"""Name, as a contract gives it -> the family's module. Training fits each of them."""


def family_of(name: str) -> Family:
    """The registered family of this name.

    Raises:
        NextbuyError: there is no such family.
    """
    try:
        return FAMILIES[name]
    except KeyError:
        raise NextbuyError(
            f"There is no model family {name}. There are: {', '.join(FAMILIES)}."
        ) from None
