"""Response times of the running service, from its Prometheus histogram."""

from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from nextbuy.network import key_headers

SERVICE = "NEXTBUY_SERVICE_URL"
"""Environment variable with the address of the running service."""
HISTOGRAM = "nextbuy_stage_seconds"


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
