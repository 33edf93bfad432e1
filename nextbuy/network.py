"""Ports to listen on, and the header that opens our own service to our own callers."""

import os
import socket

from nextbuy.errors import NextbuyError

API_KEYS = "NEXTBUY_SERVICE_API_KEYS"
"""Environment variable with the service's keys, separated by commas."""


def key_headers() -> dict[str, str]:
    """The header with the first of this environment's API keys; none without keys.

    Verbs, dashboard and monitoring send it with each request.
    """
    keys = map(str.strip, os.environ.get(API_KEYS, "").split(","))
    first = next(filter(None, keys), None)
    return {"X-Api-Key": first} if first else {}


def check_free(host: str, port: int) -> None:
    """Do nothing if this port can be listened on now.

    Raises:
        NextbuyError: another program has it, or the address is not this machine's.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise NextbuyError(
                f"Cannot listen on {host}:{port} ({error.strerror}). Choose another port or host."
            ) from None


def free_port() -> int:
    """A port of the loopback that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
