"""`app/system/open_files.py`: a limit of open files below the need of the connections."""

import socket
import time
from contextlib import ExitStack, suppress

import pytest

from app.system import open_files
from app.system.open_files import connections_within_limit
from benchmarks.load.served import START_SECONDS
from tests.support.few_files import VARIABLE
from tests.support.served import Served, answer_of

LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("limit", "wanted", "servers", "got"),
    [
        (10_000, 1000, 1, 1000),
        (1024, 1024, 1, 896),
        (1024, 896, 1, 896),
        (200, 100, 1, 72),
        (100, 1024, 1, 18),
        (20, 1024, 1, 1),
        (100, 4, 1, 4),
        (10_000, 1000, 2, 1000),
        (1024, 1024, 2, 448),
        (20, 1024, 2, 1),
    ],
)
def test_the_limit_of_open_files_bounds_the_connections(  # noqa: PLR0917 (parameters of the test)
    limit: int,
    wanted: int,
    servers: int,
    got: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """There is room left for refusals and other files; one warning has both numbers."""
    monkeypatch.setattr(open_files, "raise_soft_limit", lambda needed: min(limit, needed))
    lowered = [(wanted, got)] if got < wanted else []

    assert connections_within_limit(wanted, servers) == got
    assert [(vars(each)["max_connections"], vars(each)["lowered_to"]) for each in caplog.records] == lowered


def test_the_service_survives_a_lack_of_files(http_workers: str) -> None:
    """With more connections than files, the service warns, does not spin, and serves again."""
    served = Served(
        "--max-connections",
        "200",
        "--http-workers",
        http_workers,
        module="tests.support.few_files",
        **{VARIABLE: "200"},
    )
    warnings = [event for event in served.starting if event["level"] == "warning"]
    try:
        with ExitStack() as stack:
            for _ in range(450):
                stack.enter_context(served.connect())
            before = served.usage().cpu_seconds
            time.sleep(0.5)
            spent = served.usage().cpu_seconds - before
        deadline, status = time.monotonic() + 30, 0
        while status != 200:
            assert time.monotonic() < deadline
            with served.connect() as connection:
                connection.sendall(LIVE)
                try:
                    status, _, _ = answer_of(connection)
                except OSError:  # closed, because the other connections still take the files
                    status = 0
        running = served.process.poll()
    finally:
        served.stop()

    assert [event["lowered_to"] for event in warnings] == [72]
    assert spent < 0.3
    assert running is None


def test_connections_of_grpc_leave_files_for_http(http_workers: str) -> None:
    """GRPC accepts half of the connections for which there are files, so HTTP is served at once."""
    options = ("--max-connections", "200", "--http-workers", http_workers, "--grpc-port", "0")
    served = Served(*options, module="tests.support.few_files", **{VARIABLE: "200"})
    warnings = [event for event in served.starting if event["level"] == "warning"]
    host, _, port = served.grpc_address.rpartition(":")
    try:
        with ExitStack() as stack:
            connections = [socket.create_connection((host, int(port)), timeout=START_SECONDS) for _ in range(200)]
            for connection in map(stack.enter_context, connections):
                with suppress(ConnectionResetError):
                    connection.recv(1)  # the server has accepted the connection, or closed it
            with served.connect() as connection:
                connection.sendall(LIVE)
                status, _, _ = answer_of(connection)
    finally:
        served.stop()

    assert [event["lowered_to"] for event in warnings] == [36]
    assert status == 200
