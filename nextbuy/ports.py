"""Whether a server may listen where it is asked to, told before anything is started."""

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
