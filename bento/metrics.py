"""What the service counts. No label takes a client's value, so the number of series is bounded.

prometheus_client is imported at first use and not at the top: when it is imported it looks for the
folder of this worker's metrics, which `bento/service.py` sets.
"""

from functools import cache
from typing import Any

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5)

# Registered nowhere: Bento's workers write to shared files that /metrics adds up.
_ALONE: dict[str, Any] = {"namespace": "nextbuy", "registry": None}


class Metrics:
    """The service's Prometheus metrics; one object a process."""

    def __init__(self) -> None:
        from prometheus_client import Counter, Histogram

        self.requests = Counter(
            "requests", "Requests by route and status.", ["route", "status"], **_ALONE
        )
        self.stage_seconds = Histogram(
            "stage_seconds",
            "Time of a request by stage: features, model, reasons, total.",
            ["stage"],
            buckets=SECONDS,
            **_ALONE,
        )
        self.rows = Counter("rows", "Pairs of shopper and item scored.", **_ALONE)
        self.cold_starts = Counter(
            "cold_starts", "Answered shoppers and items nothing is known of.", ["kind"], **_ALONE
        )
        self.stale = Counter(
            "stale_rows",
            "Feature rows read that became known longer ago than NEXTBUY_SERVICE_STALE_HOURS.",
            ["view"],
            **_ALONE,
        )
        self.degraded = Counter(
            "degraded_requests", "Requests answered without Redis, or refused for it.", **_ALONE
        )
        self.logged = Counter("logged_rows", "Rows written to the prediction log.", **_ALONE)
        self.shadow_rows = Counter("shadow_rows", "Rows the challenger scored.", **_ALONE)
        self.shadow_lost = Counter(
            "shadow_lost_rows", "Rows answered that the challenger could not score.", **_ALONE
        )
        self.log_lost = Counter(
            "log_lost_rows", "Rows the prediction log could not take or write.", **_ALONE
        )


@cache
def process_metrics() -> Metrics:
    """This process's metrics; made at first use, when the worker's environment is complete."""
    return Metrics()


def exposition() -> tuple[bytes, str]:
    """The metrics of all workers in Prometheus' text format, and its media type."""
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST
