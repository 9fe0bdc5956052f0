"""Commands whose standard streams are closed, full, or without a reader."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.settings import DEMO_BUNDLE
from benchmarks.load.served import START_SECONDS
from tests.support.fake_server import FakeServer, fake_server, reply

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /dev/full")

SEVEN = str(DEMO_BUNDLE / "golden" / "seven.png")
ANSWER = {"predictions": [{"index": 7, "label": "seven", "score": 0.5}]}

# The arguments of each command that prints a result and ends. SERVICE and FILE are replaced.
COMMANDS = {
    "bench": ("SERVICE", SEVEN, "--clients", "1", "--rates", "none", "--seconds", "0.2", "--warm-up", "0"),
    "check": ("--device", "cpu"),
    "classify": (SEVEN, "--url", "SERVICE"),
    "completion": ("bash",),
    "score": (SEVEN, "--output", "FILE", "--device", "cpu", "--log-level", "warning"),
}


@pytest.fixture
def service() -> Iterator[FakeServer]:
    """A service that gives the same answer to all requests."""
    with fake_server(reply(200, ANSWER)) as server:
        yield server


def ended(
    name: str, redirection: str, service: FakeServer, folder: Path, stdout: int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Run a command with a redirection of the shell to its end."""
    values = {"SERVICE": service.url, "FILE": str(folder / "rows.parquet")}
    command = [sys.executable, "-m", "app", name, *(values.get(each, each) for each in COMMANDS[name])]
    return subprocess.run(  # noqa: S603 (our own interpreter)
        ["/bin/sh", "-c", f'"$@" {redirection}', "sh", *command],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


@pytest.mark.parametrize(
    ("redirection", "reason"), [(">/dev/full", "No space left on device"), (">&-", "Bad file descriptor")]
)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_result_that_cannot_be_printed_is_a_failure(
    name: str, redirection: str, reason: str, service: FakeServer, tmp_path: Path
) -> None:
    """The exit code is 1, and the last line of standard error has the reason."""
    done = ended(name, redirection, service, tmp_path)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == f"swin-serve: cannot write to standard output: {reason}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_has_ended_needs_no_sentence(name: str, service: FakeServer, tmp_path: Path) -> None:
    """The exit code is 1, without a trace. Programs before `head` do not tell of it."""
    reading, writing = os.pipe()
    os.close(reading)
    done = ended(name, "", service, tmp_path, writing)
    os.close(writing)

    assert done.returncode == 1
    assert "standard output" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("redirection", ["<&-", "2>&-", "<&- 2>&-"])
def test_other_closed_streams_are_no_failure(redirection: str, service: FakeServer, tmp_path: Path) -> None:
    """No socket gets the number of a standard stream, at which libuv would abort. Lines of errors are dropped."""
    done = ended("bench", redirection, service, tmp_path)

    assert done.returncode == 0
    assert "closed loop" in done.stdout
    assert "1 client: " not in done.stdout
