"""Tests of `app/server/handshakes.py`: established connections survive, new ones are refused, over real sockets."""

import select
import socket
from collections.abc import Iterator
from errno import ECONNREFUSED, EINPROGRESS

import pytest

from app.server import handshakes
from app.server.handshakes import accept_packets, refuse_new_handshakes


@pytest.fixture(params=["127.0.0.1", "::"], ids=["IPv4", "both"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """A listener on a free port."""
    is_both = request.param == "::"
    if is_both and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    family = socket.AF_INET6 if is_both else socket.AF_INET
    with socket.create_server((request.param, 0), family=family, dualstack_ipv6=is_both) as listener:
        yield listener


def address_of(listener: socket.socket) -> tuple[str, int]:
    return "127.0.0.1", listener.getsockname()[1]


def test_a_connection_in_the_accept_queue_can_be_accepted(listener: socket.socket) -> None:
    """A connection that is established but not accepted yet still exchanges bytes."""
    with socket.create_connection(address_of(listener)) as client:
        refuse_new_handshakes(listener)
        client.sendall(b"?")
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(1) == b"?"
            accepted.sendall(b"!")
            assert client.recv(1) == b"!"


def test_new_connections_are_refused(listener: socket.socket) -> None:
    """A handshake stays open until the listener is closed; then the client gets ECONNREFUSED, and no byte is lost."""
    refuse_new_handshakes(listener)
    with socket.socket() as client:
        client.setblocking(False)
        assert client.connect_ex(address_of(listener)) == EINPROGRESS
        assert not _has_result(client, 0.2)
        listener.close()
        assert _has_result(client, 30)  # the client repeats its handshake after a second
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == ECONNREFUSED


def test_a_connection_that_inherits_the_limit_works(listener: socket.socket) -> None:
    """`accept_packets` removes the limit that an accepted connection inherits from its listener."""
    with socket.create_connection(address_of(listener)) as client:
        accepted, _ = listener.accept()
        with accepted:
            refuse_new_handshakes(accepted)
            accept_packets(accepted)
            client.sendall(b"?")
            assert accepted.recv(1) == b"?"


def test_a_kernel_without_the_option_accepts_connections(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the kernel does not know the option, new connections are accepted as before."""
    monkeypatch.setattr(handshakes, "MIN_HOPS_OPTIONS", ((socket.IPPROTO_IP, 2**15),))
    refuse_new_handshakes(listener)

    with socket.create_connection(address_of(listener)) as client:
        accepted, _ = listener.accept()
        accept_packets(accepted)
        assert accepted.getpeername()[1] == client.getsockname()[1]
        accepted.close()


def _has_result(client: socket.socket, seconds: float) -> bool:
    """Return whether the handshake succeeds or fails within that time."""
    return bool(select.select([], [client], [], seconds)[1])
