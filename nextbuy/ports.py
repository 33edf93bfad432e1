"""Ports to listen on: is the one asked for free, and if none was, which is."""

import socket

from nextbuy.errors import NextbuyError


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
