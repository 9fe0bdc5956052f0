"""Service processes: their settings, their start, and their end."""

import asyncio
import errno
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import IO

import pytest

from app.errors import StartError
from app.load.target import Target
from app.settings import Settings
from app.system.ports import HOST, free_port
from app.system.processes import is_alive, process_tree
from app.tuning import service_process
from app.tuning.measurement import ServiceMeter, traffic
from app.tuning.objective import Objective
from app.tuning.service_process import ServiceEnded, ServiceProcess, variables_of
from benchmarks.load.served import START_SECONDS
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="CPU times are read in /proc")

KEY = "0123456789abcdef"
CPU = {"SWIN_DEVICE": "cpu"}


def test_settings_of_the_user_become_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whether they come from options or from the environment; those of the address are left out."""
    monkeypatch.setenv("SWIN_FORMATS", "png,jpeg")
    monkeypatch.setenv("SWIN_PORT", "80")
    monkeypatch.setenv("SWIN_API_KEYS", f"{KEY},{KEY}x")

    found = variables_of(Settings(bundle=tmp_path, page=False, max_megapixels=1.5))

    assert found == {
        "SWIN_FORMATS": "png,jpeg",
        "SWIN_API_KEYS": f"{KEY},{KEY}x",
        "SWIN_BUNDLE": str(tmp_path),
        "SWIN_PAGE": "false",
        "SWIN_MAX_MEGAPIXELS": "1.5",
    }


def test_all_settings_survive_the_way_through_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child has the settings that the user has given, whatever their types."""
    given = {
        "bundle": Path("b"),
        "api_keys": [KEY],
        "trusted_proxies": ["10.0.0.0/8"],
        "cors_origins": ["https://example.org"],
        "cuda_graphs": False,
        "threads": 3,
        "formats": ("png",),
        "request_timeout": 2.5,
    }
    settings = Settings.model_validate(given)
    for name, value in variables_of(settings).items():
        monkeypatch.setenv(name, value)

    assert Settings() == settings


def test_a_service_answers_with_a_key_and_ends_without_a_trace(demo_images: list[bytes]) -> None:
    """Windows have answers, CPU time and memory are counted, and no process is left after the stop."""

    async def work() -> list[int]:
        service = await ServiceProcess.start(
            {**CPU, "SWIN_API_KEYS": KEY, "SWIN_HTTP_WORKERS": "1"}, KEY, START_SECONDS
        )
        try:
            members = process_tree(service.pid)
            meter = ServiceMeter(service, traffic(demo_images, KEY, Objective(50, 10), 8), Random(0))
            window = await meter.open(50, 0.5)
            assert window.requests
            assert window.holds
            others = (await meter.http(2, 0.2), await meter.alone(0.2))
            assert [other.refused + other.lost for other in others] == [0, 0]
            usage = service.usage()  # of the start, too, which takes many ticks of the clock of CPU time
            assert usage.cpu_seconds > 0
            assert usage.memory > 2**20
        finally:
            service.stop()
        return members

    members = asyncio.run(work())

    assert len(members) == 2
    assert not any(is_alive(pid) for pid in members)


def test_a_service_is_stopped_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file descriptor to read `/proc`, the process itself is killed, and its HTTP worker ends with it."""

    def unreadable(pid: int) -> list[int]:
        raise OSError(errno.EMFILE, f"cannot list the processes below {pid}")

    async def work() -> list[int]:
        service = await ServiceProcess.start({**CPU, "SWIN_HTTP_WORKERS": "1"}, None, START_SECONDS)
        members = process_tree(service.pid)
        monkeypatch.setattr(service_process, "kill_tree", unreadable)
        service.stop()
        return members

    members = asyncio.run(work())

    assert len(members) == 2
    until(lambda: not any(is_alive(pid) for pid in members))


def test_a_process_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits for a device ends when the device answers, which can be never. The tuner goes on."""
    monkeypatch.setattr(service_process, "is_alive", lambda _: True)
    monkeypatch.setattr(service_process, "STOP_SECONDS", 0.05)

    async def work() -> int:
        service = await ServiceProcess.start(CPU, None, START_SECONDS)
        service.stop()
        return service.pid

    pid = asyncio.run(work())

    until(lambda: not is_alive(pid))  # it was killed


def test_a_setting_with_which_no_service_starts_is_one_sentence() -> None:
    """The sentence is that of the service."""
    with pytest.raises(StartError, match="SWIN_MAX_BATCH '0'"):
        asyncio.run(ServiceProcess.start({**CPU, "SWIN_MAX_BATCH": "0"}, None, START_SECONDS))


def test_a_process_that_cannot_be_started_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system can be out of memory or process ids. The log that was opened for the process is closed."""
    logs = list[IO[bytes]]()

    def refuse(*_: object, stdout: IO[bytes], **__: object) -> None:
        logs.append(stdout)
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "Popen", refuse)

    with pytest.raises(StartError, match="cannot start a process: Resource temporarily unavailable"):
        asyncio.run(ServiceProcess.start(CPU, None, START_SECONDS))
    assert [log.closed for log in logs] == [True]


def test_a_service_starts_without_a_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file system of a container can be read-only. The log and the copies of the bundle are in memory then."""
    nowhere = "import tempfile; tempfile._candidate_tempdir_list = lambda: []"
    (tmp_path / "sitecustomize.py").write_text(nowhere)  # for the child
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", list)

    async def work() -> None:
        service = await ServiceProcess.start({**CPU, "SWIN_HTTP_WORKERS": "1"}, None, START_SECONDS)
        service.stop()

    with pytest.raises(FileNotFoundError, match="temporary directory"):
        tempfile.gettempdir()
    asyncio.run(work())


def test_another_port_is_tried_if_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the choice of the port and the start, another process can take it."""
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        ports = iter([other.getsockname()[1], free_port()])
        monkeypatch.setattr(service_process, "free_port", lambda: next(ports))

        async def work() -> None:
            service = await ServiceProcess.start(CPU, None, START_SECONDS)
            service.stop()

        asyncio.run(work())


def test_a_service_that_ended_is_noticed(demo_images: list[bytes]) -> None:
    """Its window is no measurement."""

    async def work() -> None:
        service = await ServiceProcess.start(CPU, None, START_SECONDS)
        os.kill(service.pid, 9)
        try:
            await ServiceMeter(service, traffic(demo_images, None, Objective(50, 10), 8), Random(0)).alone(0.1)
        finally:
            service.stop()

    with pytest.raises(ServiceEnded, match="killed by SIGKILL"):
        asyncio.run(work())


TEXT = "2026-11-29T17:18:43.032+00:00 {} swin.request request path=/x"
JSON = '{{"time": "2026-11-29T17:18:43.032+00:00", "level": "{}", "message": "request"}}'
DIE = "import os, sys; print(sys.argv[1]); sys.stdout.flush(); os.kill(os.getpid(), {})"
EXIT = "import sys; sys.exit('\\n'.join(sys.argv[1:]))"  # prints, and exits with 1


@pytest.mark.parametrize(
    ("code", "lines", "expected"),
    [
        (
            DIE.format(9),
            ["swin-serve: a fault"],
            "killed by SIGKILL; the usual cause is that there is not enough memory",
        ),
        (DIE.format(15), ["swin-serve: a fault"], "killed by SIGTERM"),
        (DIE.format(40), ["swin-serve: a fault"], "killed by signal 40"),
        (EXIT, ["swin-serve: a fault", TEXT.format("INFO")], "a fault"),
        (EXIT, ["swin-serve: a fault", JSON.format("info")], "a fault"),
        (EXIT, [TEXT.format("INFO"), TEXT.format("ERROR")], TEXT.format("ERROR")),
        (EXIT, [TEXT.format("INFO")], "exit code 1, without an error in its log"),
    ],
)
def test_the_reason_of_an_end_is_the_signal_or_the_last_error(
    code: str, lines: list[str], expected: str, tmp_path: Path
) -> None:
    """A line about a request is no reason."""
    with (tmp_path / "log").open("w+b") as log:
        process = subprocess.Popen([sys.executable, "-c", code, *lines], stdin=subprocess.PIPE, stdout=log, stderr=log)  # noqa: S603 (code of this test)
        process.wait()
        service = ServiceProcess(process, Target(f"http://{HOST}:1"), log)

        with pytest.raises(ServiceEnded) as ended:
            service.check()

        service.stop()
    assert str(ended.value) == expected
