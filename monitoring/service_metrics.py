"""The running service of a data folder, and its response times, from its Prometheus histogram."""

import os
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from nextbuy.errors import NextbuyError
from nextbuy.network import key_headers
from nextbuy.settings import Settings
from nextbuy.shop import shop_identity

SERVICE = "NEXTBUY_SERVICE_URL"
"""Environment variable with the address of the running service."""
DEFAULT_URL = "http://127.0.0.1:3000"
HISTOGRAM = "nextbuy_stage_seconds"


def service_url() -> str:
    """Where the service is expected."""
    return os.environ.get(SERVICE, DEFAULT_URL)


def own_service(settings: Settings, timeout: float = 2) -> str:
    """The address of the running service, once it said that it serves this data folder.

    Raises:
        NextbuyError: none answers, or it serves another data folder.
    """
    url = service_url()
    try:
        response = httpx.get(f"{url}/model", headers=key_headers(), timeout=timeout)
    except httpx.HTTPError as error:
        raise NextbuyError(
            f"No service answers at {url} ({type(error).__name__}). Start it: nextbuy serve"
        ) from error
    if response.is_error:
        raise NextbuyError(f"{url} answered {response.status_code}: {response.text[:200]}")
    try:
        served = response.json()["shop"]
        name, identity = served["name"], served["id"]
    except (ValueError, KeyError, TypeError):
        raise NextbuyError(
            f"What answers at {url} does not say which data folder it serves: it is another "
            "program, or an older version. Start the service again: nextbuy serve"
        ) from None
    ours = shop_identity(settings)
    if ours is None or identity != ours.id:
        raise NextbuyError(
            f"The service at {url} serves another data folder ({name!r}), not this one. Start this "
            f"one's, nextbuy serve --port 3001, and name it: {SERVICE}=http://127.0.0.1:3001"
        )
    return url


def scrape(url: str, timeout: float = 2) -> dict[str, Any] | None:
    """`requests, p50_ms, p99_ms` since the service started; None before its first response.

    Raises:
        httpx.HTTPError: it does not respond, or has no metrics.
    """
    response = httpx.get(f"{url}/metrics", headers=key_headers(), timeout=timeout)
    response.raise_for_status()
    buckets: dict[float, float] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            if sample.name == f"{HISTOGRAM}_bucket" and sample.labels.get("stage") == "total":
                bound = float(sample.labels["le"])
                buckets[bound] = buckets.get(bound, 0) + sample.value
    ordered = sorted(buckets.items())
    total = ordered[-1][1] if ordered else 0
    if not total:
        return None
    return {
        "requests": int(total),
        "p50_ms": _quantile(ordered, 0.50) * 1000,
        "p99_ms": _quantile(ordered, 0.99) * 1000,
    }


def _quantile(buckets: list[tuple[float, float]], share: float) -> float:
    """Interpolated within the bucket, as Prometheus' `histogram_quantile` does."""
    rank = buckets[-1][1] * share
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= rank:
            if bound == float("inf"):
                return low
            return low + (bound - low) * (rank - below) / (count - below)
        low, below = bound, count
    return low
