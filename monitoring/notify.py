"""Notifies of raised alerts by a webhook, once each."""

import os
from collections.abc import Sequence

import httpx

from monitoring.alerts import Alert

WEBHOOK = "NEXTBUY_ALERT_WEBHOOK"
"""Environment variable with the address that alerts are posted to, as JSON."""


def notify(alerts: Sequence[Alert], timeout: float = 10) -> tuple[list[Alert], str | None]:
    """Post the raised alerts that are new; without the environment variable, nothing.

    The body is `{"text": ..., "alerts": [{name, level, value, since, message, features,
    remedy}]}`: chat systems show `text`.

    Returns:
        The alerts with `notified` set where it is done, and why the webhook failed, or None. What
        could not be delivered is tried again in the next run.
    """
    url = os.environ.get(WEBHOOK)
    fresh = [a for a in alerts if a.state == "raised" and not a.notified]
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
