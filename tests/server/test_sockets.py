"""`app/server/sockets.py`: a port belongs to one service, before and after it listens."""

import socket
import sys
from types import SimpleNamespace

import pytest

from app.errors import StartError
from app.server import sockets
from app.server.sockets import bound_socket, claim_port, listen, reserved_address, shared_sockets

HOST = "127.0.0.1"

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets and SO_REUSEPORT are Linux's")


@needs_linux
def test_shared_sockets_have_one_port() -> None:
    """Port 0 selects a free port, which all sockets share."""
    with shared_sockets(HOST, 0, 3) as listeners:
        ports = {listener.getsockname()[1] for listener in listeners}

        assert len(listeners) == 3
        assert len(ports) == 1
        assert ports != {0}


@needs_linux
def test_a_port_is_claimed_before_a_service_listens() -> None:
    """A second service is refused although the first one does not listen yet."""
    with claim_port(HOST, 0) as port, pytest.raises(StartError, match=f"{port}: .*; choose another --port"):
        claim_port(HOST, port).__enter__()


@needs_linux
def test_a_claim_ends_with_its_block() -> None:
    """The port can be claimed again afterwards."""
    with claim_port(HOST, 0) as port:
        pass
    with claim_port(HOST, port) as again:
        assert again == port


@needs_linux
def test_a_port_on_which_another_service_listens_is_refused() -> None:
    """A listener that shares its port does not share it with another service."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(StartError, match=f"port {port}"), shared_sockets(HOST, port, 2):
            pass


@pytest.fixture(params=[pytest.param("linux", marks=needs_linux), "darwin"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform that the sockets see. The code for others than Linux runs on Linux, too."""
    monkeypatch.setattr(sockets, "sys", SimpleNamespace(platform=request.param))


@pytest.mark.usefixtures("platform")
def test_a_library_can_listen_on_a_reserved_address() -> None:
    """Port 0 selects a free port, and a socket with SO_REUSEPORT can bind the address."""
    with reserved_address(HOST, 0, "--grpc-port") as address, socket.socket() as library:
        host, _, port = address.rpartition(":")
        library.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        library.bind((host, int(port)))
        library.listen()

        assert (host, port != "0") == (HOST, True)


@pytest.mark.usefixtures("platform")
def test_a_port_in_use_cannot_be_reserved() -> None:
    """A service that listens keeps its port, and the error names the option that chooses another one."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((HOST, 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(StartError, match=f"port {port}: .*; choose another --grpc-port"):
            reserved_address(HOST, port, "--grpc-port").__enter__()


@needs_linux
def test_a_port_is_reserved_before_the_library_listens() -> None:
    """Neither another swin-serve nor a socket without SO_REUSEADDR gets the port within the block."""
    with reserved_address(HOST, 0, "--grpc-port") as address, socket.socket() as other:
        port = int(address.rpartition(":")[2])
        with pytest.raises(StartError, match=f"port {port}"):
            claim_port(HOST, port).__enter__()
        with pytest.raises(OSError, match="Address already in use"):
            other.bind((HOST, port))


@pytest.mark.usefixtures("platform")
def test_a_reservation_ends_with_its_block() -> None:
    """The port can be reserved again afterwards."""
    with reserved_address(HOST, 0, "--grpc-port") as address:
        pass
    with reserved_address(HOST, int(address.rpartition(":")[2]), "--grpc-port") as again:
        assert again == address


def test_two_processes_that_bound_one_port_cannot_both_listen() -> None:
    """The second one is refused when it begins to listen, at the latest."""
    with bound_socket(HOST, 0) as first:
        port = first.getsockname()[1]
        listen(first, HOST, port, 8)

        with pytest.raises(StartError, match="choose another --port"), bound_socket(HOST, port) as second:
            listen(second, HOST, port, 8)


def test_an_address_of_another_machine_is_an_error_of_the_host() -> None:
    """The message advises another --host, because no port helps. 192.0.2.0/24 is for documentation (RFC 5737)."""
    with pytest.raises(StartError, match="choose another --host"), bound_socket("192.0.2.1", 0):
        pass


def test_a_bound_socket_accepts_no_connection() -> None:
    """Clients connect only after `listen`: the service is ready then."""
    with bound_socket(HOST, 0) as listener, socket.socket() as client:
        address = listener.getsockname()
        assert client.connect_ex(address) != 0
        listen(listener, HOST, address[1], 8)
        assert client.connect_ex(address) == 0
