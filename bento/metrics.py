"""What the service counts. No label takes a client's value, so the number of series is bounded.

prometheus_client is imported at first use and not at the top: when it is imported it looks for the
folder of this worker's metrics, which `bento/service.py` sets.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from nextbuy.live.health import LiveHealth

SECONDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5)

# Registered nowhere: Bento's workers write to shared files that /metrics adds up.
_ALONE: dict[str, Any] = {"namespace": "nextbuy", "registry": None}


LIVE_GAUGES: tuple[tuple[str, str, Callable[[LiveHealth], float]], ...] = (
    (
        "waiting_events",
        "Events acknowledged whose features are not in Redis yet.",
        lambda live: live.waiting_events,
    ),
    (
        "oldest_waiting_seconds",
        "Age of the oldest of them since its acknowledgement: the lag in seconds.",
        lambda live: live.oldest_seconds,
    ),
    (
        "set_apart_events",
        "Events that could not be worked off (nextbuy live status).",
        lambda live: live.set_apart_events,
    ),
    (
        "left_out_shoppers",
        "Shoppers whose features wait for the next batch build.",
        lambda live: live.left_out_shoppers,
    ),
    (
        "worker_silent_seconds",
        "Time since the live worker's last sign of life.",
        lambda live: float("nan") if live.silent_seconds is None else live.silent_seconds,
    ),
)
"""Name, help and value of what one look into the live store gives."""


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
        self.items = Counter(
            "items",
            "Items answered by state: open, expired, untouched, unknown.",
            ["state"],
            **_ALONE,
        )
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


def exposition(live: LiveHealth | None) -> tuple[bytes, str]:
    """The metrics of all workers in Prometheus' text format, and its media type.

    Feast's own are left out: this service reads Redis without its code, so they are always zero.

    Args:
        live: how live events are doing; None without any.
    """
    from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
    from prometheus_client.multiprocess import MultiProcessCollector
    from prometheus_client.registry import Collector

    of_workers = MultiProcessCollector(None)  # type: ignore[no-untyped-call]

    class Ours(Collector):
        def collect(self) -> Iterator[Metric]:
            for metric in of_workers.collect():  # type: ignore[no-untyped-call]
                if not metric.name.startswith("feast_"):
                    yield metric
            if live is None:
                return
            for name, help_text, value in LIVE_GAUGES:
                yield GaugeMetricFamily(f"nextbuy_live_{name}", help_text, value(live))
            yield CounterMetricFamily(
                "nextbuy_live_worker_restarts",
                "Times that the live worker ended by itself.",
                live.restarts,
            )

    registry = CollectorRegistry()
    registry.register(Ours())
    return generate_latest(registry), CONTENT_TYPE_LATEST
