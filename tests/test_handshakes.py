"""`app/handshakes.py`: who has connected is taken, and nobody connects after that, over real sockets."""

import select
import socket
from collections.abc import Iterator
from errno import ECONNREFUSED, EINPROGRESS

import pytest

from app import handshakes
from app.handshakes import begin_none


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """On a free port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def test_who_has_connected_is_taken(listener: socket.socket) -> None:
    """Its connection goes on, accepted before or not."""
    with socket.create_connection(listener.getsockname()) as caller:
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
        assert caller.connect_ex(listener.getsockname()) == EINPROGRESS
        assert not _is_told(caller, 0.2)
        listener.close()
        assert _is_told(caller, 30)  # it asks again after a second
        assert caller.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == ECONNREFUSED


def test_without_filters_all_stays_as_it_was(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some kernels have none."""
    monkeypatch.setattr(handshakes, "ATTACH_FILTER", 2**15)
    begin_none(listener)

    with socket.create_connection(listener.getsockname(), timeout=10) as caller:
        accepted, place = listener.accept()
        accepted.close()
        assert place == caller.getsockname()


def _is_told(caller: socket.socket, seconds: float) -> bool:
    """What came of its connection, within that time."""
    return bool(select.select([], [caller], [], seconds)[1])
