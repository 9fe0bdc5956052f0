"""Open files: how many this process may have, and how many connections fit in. Knows no sockets."""

import logging
import resource

log = logging.getLogger("swin.server")

# File descriptors for anything but connections.
OTHER_FILES = 64

# Connections beyond `max_connections` on which the refusal is still sent.
SPARE_CONNECTIONS = 64


def connections_within(most_connections: int) -> int:
    """Return `most_connections`, or fewer if this process may not open as many files.

    The soft limit of open files is raised as far as the hard limit allows. A lower number is logged.
    """
    needed = most_connections + SPARE_CONNECTIONS + OTHER_FILES
    allowed = _raised(needed)
    fewer = max(allowed - SPARE_CONNECTIONS - OTHER_FILES, (allowed - OTHER_FILES) // 2, 1)
    if fewer >= most_connections:
        return most_connections
    log.warning(
        "max_connections is lowered, because the limit of open files (ulimit -n) is too low",
        extra={"max_connections": most_connections, "lowered_to": fewer, "files": allowed, "files_needed": needed},
    )
    return fewer


def _raised(needed: int) -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return needed
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft
