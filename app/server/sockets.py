"""Listening sockets, bound before the service starts, so that a port in use fails at once. Knows no application."""

import contextlib
import errno
import socket
import sys
from collections.abc import Iterator

from app.errors import StartError

# Errors of a bind that another port avoids: it is in use, or needs privileges.
OF_THE_PORT = {errno.EADDRINUSE, errno.EACCES}

# The option that chooses the port of HTTP.
PORT = "--port"


@contextlib.contextmanager
def bound_socket(host: str, port: int) -> Iterator[socket.socket]:
    """Bind a socket that does not listen yet, so that no client connects before the service is ready.

    Raises:
        StartError: the address cannot be bound.
    """
    with _bind(host, port) as listener:
        yield listener


@contextlib.contextmanager
def shared_sockets(host: str, port: int, count: int) -> Iterator[list[socket.socket]]:
    """Bind `count` sockets to one port with SO_REUSEPORT: one for each HTTP worker.

    Raises:
        StartError: the address cannot be bound, or another service uses it.
    """
    with contextlib.ExitStack() as stack:
        claimed = stack.enter_context(claim_port(host, port))
        yield [stack.enter_context(_bind(host, claimed, is_shared=True)) for _ in range(count)]


@contextlib.contextmanager
def reserved_address(host: str, port: int, option: str) -> Iterator[str]:
    """Reserve a port for sockets that a library binds with SO_REUSEPORT, and yield the numeric address.

    Inside the block, a socket that never listens and a name in the abstract namespace keep other services from the
    port. A service with SO_REUSEADDR can still take it until the library listens, which then fails. Other systems than
    Linux have no such names: there, the port is only found to be free. `option` is the one that chooses the port.

    Raises:
        StartError: the address cannot be bound, or another service uses it.
    """
    with contextlib.ExitStack() as stack:
        if sys.platform == "linux":
            claimed = stack.enter_context(claim_port(host, port, option))
            address = stack.enter_context(_bind(host, claimed, option, is_shared=True)).getsockname()
        else:
            with _bind(host, port, option) as probe:
                address = probe.getsockname()
        yield address_of(*address[:2])


def address_of(host: str, port: int) -> str:
    """Return host and port as in a URL."""
    return f"{f'[{host}]' if ':' in host else host}:{port}"


@contextlib.contextmanager
def claim_port(host: str, port: int, option: str = PORT) -> Iterator[int]:
    """Reserve a port for this service until the block ends, and yield its number. Port 0 selects a free one.

    SO_REUSEPORT lets two services of one user share a port by accident. Two checks prevent that: a listening socket
    without the option finds every service that listens, and a name in the abstract namespace finds another swin-serve
    that has bound the port and does not listen yet.

    Raises:
        StartError: the port is in use.
    """
    with _bind(host, port, option) as probe, _start_error(host, port, option):
        number: int = probe.getsockname()[1]
        probe.listen()
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0swin-serve {host} {number}")
        except OSError:
            claim.close()
            raise
    with claim:
        yield number


def listen(listener: socket.socket, host: str, port: int, backlog: int) -> None:
    """Let clients connect to a socket of `bound_socket`.

    Raises:
        StartError: another process listens on the port. Two sockets can bind one port while neither listens.
    """
    with _start_error(host, port):
        listener.listen(backlog)


def _bind(host: str, port: int, option: str = PORT, *, is_shared: bool = False) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        # Connections of a service that has just ended can keep the port in TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.setblocking(False)
        with _start_error(host, port, option):
            listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


@contextlib.contextmanager
def _start_error(host: str, port: int, option: str = PORT) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        choice = option if error.errno in OF_THE_PORT else "--host"
        raise StartError(f"cannot listen on {host} port {port}: {error.strerror}; choose another {choice}") from error
