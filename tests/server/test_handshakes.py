"""`app/server/handshakes.py`: who has connected is taken, and nobody connects after that, over real sockets."""

import select
import socket
from collections.abc import Iterator
from errno import ECONNREFUSED, EINPROGRESS

import pytest

from app.server import handshakes
from app.server.handshakes import begin_none, go_on


@pytest.fixture(params=["127.0.0.1", "::"], ids=["IPv4", "both"])
def listener(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    """On a free port."""
    is_both = request.param == "::"
    if is_both and not socket.has_dualstack_ipv6():
        pytest.skip("there is no IPv6 here")
    family = socket.AF_INET6 if is_both else socket.AF_INET
    with socket.create_server((request.param, 0), family=family, dualstack_ipv6=is_both) as listener:
        yield listener


def place(listener: socket.socket) -> tuple[str, int]:
    return "127.0.0.1", listener.getsockname()[1]


def test_who_has_connected_is_taken(listener: socket.socket) -> None:
    """Its connection goes on, accepted before or not."""
    with socket.create_connection(place(listener)) as caller:
        begin_none(listener)
        caller.sendall(b"?")
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.recv(1) == b"?"
            accepted.sendall(b"!")
            assert caller.recv(1) == b"!"


def test_nobody_connects_any_more(listener: socket.socket) -> None:
    """Who asks is let wait, and told when the listener is closed: before it has sent what could be lost."""
    begin_none(listener)
    with socket.socket() as caller:
        caller.setblocking(False)
        assert caller.connect_ex(place(listener)) == EINPROGRESS
        assert not _is_told(caller, 0.2)
        listener.close()
        assert _is_told(caller, 30)  # it asks again after a second
        assert caller.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == ECONNREFUSED


def test_who_connected_at_that_moment_goes_on(listener: socket.socket) -> None:
    """A connection has inherited what its listener was told; its caller is heard as soon as it is known."""
    with socket.create_connection(place(listener)) as caller:
        accepted, _ = listener.accept()
        with accepted:
            begin_none(accepted)
            go_on(accepted)
            caller.sendall(b"?")
            assert accepted.recv(1) == b"?"


def test_a_kernel_that_cannot_takes_everybody(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it did before."""
    monkeypatch.setattr(handshakes, "MIN_HOPS", ((socket.IPPROTO_IP, 2**15),))
    begin_none(listener)

    with socket.create_connection(place(listener)) as caller:
        accepted, _ = listener.accept()
        go_on(accepted)
        assert accepted.getpeername()[1] == caller.getsockname()[1]
        accepted.close()


def _is_told(caller: socket.socket, seconds: float) -> bool:
    """What came of its connection, within that time."""
    return bool(select.select([], [caller], [], seconds)[1])
