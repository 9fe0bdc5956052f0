"""Ports of the loopback address. Opens no server."""

import socket

HOST = "127.0.0.1"


def free_port() -> int:
    """Return a port of the loopback address on which no program listens at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
