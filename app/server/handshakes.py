"""No new connections for a listener that is about to be closed: closing it resets those that nobody has accepted yet.

However soon it is closed after the last one was accepted, another may have come in between. So the kernel is told to
drop what begins a connection, as if it came from too far: whatever has fewer hops left than there can be at most
(IP_MINTTL of ip(7) and IPV6_MINHOPCOUNT, meant for the security mechanism of RFC 5082). A filter of packets would be
the straight way, but needs CAP_NET_ADMIN. Who asks meanwhile asks again a second later (RFC 6298, 2): it is refused.
"""

import contextlib
import socket
import sys

MIN_HOPS = ((socket.IPPROTO_IP, 21), (socket.IPPROTO_IPV6, 73))  # IP_MINTTL, IPV6_MINHOPCOUNT of Linux' headers
NOBODY, EVERYBODY = 255, 0  # systems send with 64 or 128


def begin_none(listener: socket.socket) -> None:
    """Let nobody connect any more. Connections of before go on."""
    _hear(listener, NOBODY)


def go_on(connection: socket.socket) -> None:
    """Hear who connected nevertheless, at that very moment: a connection begins with what its listener was told."""
    _hear(connection, EVERYBODY)


def _hear(end: socket.socket, least: int) -> None:
    for level, option in MIN_HOPS if sys.platform == "linux" else ():  # elsewhere the numbers mean other options
        if level == socket.IPPROTO_IP or end.family == socket.AF_INET6:  # which can have callers of the former, too
            with contextlib.suppress(OSError):  # a kernel without it: who comes in between is reset
                end.setsockopt(level, option, least)
