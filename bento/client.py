"""Ask a running service."""

from collections.abc import Sequence
from typing import Any

import httpx

from nextbuy.errors import NextbuyError
from nextbuy.network import key_headers


def predict(
    url: str,
    user_id: str,
    item_ids: Sequence[str] | None = None,
    reasons: int = 0,
    untouched: bool = False,
) -> dict[str, Any]:
    """The service's ranked answer; without items, those that the shopper touched lately.

    Items that the shopper never touched get a probability with `untouched` alone.

    Where this environment has API keys for the service, the first of them is used.

    >>> predict("http://127.0.0.1:3000", "u42")["items"][0]["probability"]
    0.31

    Raises:
        NextbuyError: the service is out of reach or refuses the request; the message says why.
    """
    body: dict[str, Any] = {"user_id": user_id, "reasons": reasons, "untouched": untouched}
    if item_ids is not None:
        body["item_ids"] = list(item_ids)
    try:
        response = httpx.post(f"{url}/predict", json=body, headers=key_headers(), timeout=30)
    except httpx.HTTPError as error:
        raise NextbuyError(
            f"No service answers at {url} ({error}). Start one: nextbuy serve"
        ) from None
    if response.is_error:
        raise NextbuyError(f"{url} answered {response.status_code}: {response.text}")
    answer: dict[str, Any] = response.json()
    return answer
