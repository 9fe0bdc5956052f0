"""Refusal of new TCP connections on a listener before it is closed. Knows nothing about HTTP.

Closing a listener resets the connections in its accept queue. A client can connect between the
last `accept` and `close`, so the kernel must refuse new handshakes before that.

A packet filter would do it, but needs CAP_NET_ADMIN. Instead, the listener requires packets with
255 hops left (IP_MINTTL of ip(7), IPV6_MINHOPCOUNT; made for RFC 5082). Systems send with 64 or
128 hops, so the kernel drops each new handshake. The client repeats it a second later (RFC 6298,
section 2). By then the listener is closed, and the connection is refused.
"""

import contextlib
import socket
import sys

# The socket options IP_MINTTL and IPV6_MINHOPCOUNT, as numbered in Linux's headers. Python does
# not name them.
MIN_HOPS_OPTIONS = ((socket.IPPROTO_IP, 21), (socket.IPPROTO_IPV6, 73))

# No packet from a usual system has this many hops left.
UNREACHABLE_MIN_HOPS = 255

# The default: packets are accepted with any number of hops left.
ANY_HOPS = 0


def refuse_new_handshakes(listener: socket.socket) -> None:
    """Make the kernel drop new handshakes. Established connections are not affected."""
    _set_min_hops(listener, UNREACHABLE_MIN_HOPS)


def accept_packets(connection: socket.socket) -> None:
    """Undo the limit on an accepted connection, which inherits it from its listener."""
    _set_min_hops(connection, ANY_HOPS)


def _set_min_hops(end: socket.socket, hops: int) -> None:
    if sys.platform != "linux":  # elsewhere, these numbers are other options
        return
    for level, option in MIN_HOPS_OPTIONS:
        # An IPv6 socket can have IPv4 clients, too.
        if level == socket.IPPROTO_IP or end.family == socket.AF_INET6:
            # Without the option, a connection that arrives before the close is reset.
            with contextlib.suppress(OSError):
                end.setsockopt(level, option, hops)
