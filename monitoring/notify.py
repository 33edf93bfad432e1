"""Notifies of raised alerts: in the log of every run, and once by a webhook."""

import logging
import os
from collections.abc import Sequence

import httpx

from monitoring.alerts import Alert

WEBHOOK = "NEXTBUY_ALERT_WEBHOOK"
"""Environment variable with the address that alerts are posted to, as JSON."""

logger = logging.getLogger("nextbuy.monitoring")


def notify(alerts: Sequence[Alert], timeout: float = 10) -> tuple[list[Alert], str | None]:
    """Log the raised alerts, and post those that are new.

    The body is `{"text": ..., "alerts": [{name, level, value, since, message, features,
    remedy}]}`: chat systems show `text`.

    Returns:
        The alerts with `notified` set where it is done, and why the webhook failed, or None. What
        could not be delivered is tried again in the next run.
    """
    raised = [a for a in alerts if a.is_raised and a.muted is None]
    for alert in raised:
        logger.log(logging.ERROR if alert.level == "fail" else logging.WARNING, "%s", alert)
    url = os.environ.get(WEBHOOK)
    fresh = [a for a in raised if not a.notified]
    problem: str | None = None
    if url and fresh:
        body = {
            "text": "\n".join(map(str, fresh)),
            "alerts": [
                a.model_dump(
                    mode="json",
                    include={
                        "name", "level", "value", "since", "message", "features", "remedy",
                    },
                )
                for a in fresh
            ],
        }  # fmt: skip
        try:
            httpx.post(url, json=body, timeout=timeout).raise_for_status()
        except httpx.HTTPError as error:
            problem = f"The webhook of {WEBHOOK} did not accept {len(fresh)} alerts ({error})"
    posted = {a.name for a in fresh} if problem is None else set()
    notified = [a.model_copy(update={"notified": a.notified or a.name in posted}) for a in alerts]
    return notified, problem
