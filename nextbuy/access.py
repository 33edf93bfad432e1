"""What opens a service that has API keys to our own callers: verbs, dashboard, monitoring."""

import os

API_KEYS = "NEXTBUY_SERVICE_API_KEYS"
"""Environment variable with the service's keys, separated by commas."""


def key_headers() -> dict[str, str]:
    """The header with the first of this environment's API keys; none without keys."""
    keys = map(str.strip, os.environ.get(API_KEYS, "").split(","))
    first = next(filter(None, keys), None)
    return {"X-Api-Key": first} if first else {}
