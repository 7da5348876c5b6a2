"""Ports for servers that come back to the same address."""

import random
import socket
from typing import Final

__all__ = ["lasting_port"]

#: Below the ports that systems give to outgoing connections (Linux: from 32768): one of those may have it while the
#: server is away, which then cannot come back.
PORTS: Final = range(20_000, 32_000)


def lasting_port() -> int:
    """A port of the loopback on which nobody listens, and which nobody gets by chance either."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
