"""The limit of open files, and how many connections fit into it. Knows no sockets."""

import logging
import resource

log = logging.getLogger("swin.server")

# File descriptors for anything but connections.
OTHER_FILES = 64

# Connections beyond `max_connections` on which the refusal is still sent.
SPARE_CONNECTIONS = 64


def connections_within_limit(max_connections: int, servers: int = 1) -> int:
    """Return `max_connections`, or fewer if this process may not open as many files for each of its servers.

    The soft limit of open files is raised as far as the hard limit allows. A lower number is
    logged.
    """
    needed = servers * max_connections + SPARE_CONNECTIONS + OTHER_FILES
    allowed = raise_soft_limit(needed)
    files = max(allowed - SPARE_CONNECTIONS - OTHER_FILES, (allowed - OTHER_FILES) // 2)
    fewer = max(files // servers, 1)
    if fewer >= max_connections:
        return max_connections
    log.warning(
        "max_connections is lowered, because the limit of open files (ulimit -n) is too low",
        extra={"max_connections": max_connections, "lowered_to": fewer, "files": allowed, "files_needed": needed},
    )
    return fewer


def raise_soft_limit(needed: int) -> int:
    """Raise the soft limit to `needed` if possible, and return how many files may be open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft
