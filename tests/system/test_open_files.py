"""`app/system/open_files.py`: a limit of open files that is lower than what the connections need."""

import time
from contextlib import ExitStack

import pytest

from app.system import open_files
from app.system.open_files import connections_within
from tests.support.few_files import VARIABLE
from tests.support.served import Served, answer_of

LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("limit", "wanted", "got"),
    [
        (10_000, 1000, 1000),
        (1024, 1024, 896),
        (1024, 896, 896),
        (200, 100, 72),
        (100, 1024, 18),
        (20, 1024, 1),
        (100, 4, 4),
    ],
)
def test_as_many_connections_are_taken_as_files_may_be_open(
    limit: int, wanted: int, got: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside them there is room for refusals and for the files of the service; one warning has both numbers."""
    monkeypatch.setattr(open_files, "_raised", lambda needed: min(limit, needed))
    lowered = [(wanted, got)] if got < wanted else []

    assert connections_within(wanted) == got
    assert [(vars(each)["max_connections"], vars(each)["lowered_to"]) for each in caplog.records] == lowered


def test_without_a_file_left_the_service_goes_on(http_workers: str) -> None:
    """More connections than files: it says so at the start, waits without spinning, and then serves again."""
    served = Served(
        "--max-connections",
        "200",
        "--http-workers",
        http_workers,
        module="tests.support.few_files",
        **{VARIABLE: "200"},
    )
    told = [event for event in served.starting if event["level"] == "warning"]
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
                except OSError:  # closed, because the others have not been let go yet
                    status = 0
        running = served.process.poll()
    finally:
        served.stop()

    assert [event["lowered_to"] for event in told] == [72]
    assert spent < 0.3
    assert running is None
