"""A candidate as a real process on a loopback port: start, readiness, CPU time and end.

The process is `python -m app.tuning.child`, which ends with the tuner. Knows no candidate and no load.
"""

import asyncio
import contextlib
import errno
import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import IO, Self

from app.errors import StartError
from app.load.client_pool import Broken
from app.load.target import Target
from app.load.windows import OK
from app.settings import PREFIX, Settings
from app.system.ports import HOST, free_port
from app.system.processes import ResourceUsage, is_alive, kill_tree, resource_usage

# Timeout of a request for readiness, which takes milliseconds.
ANSWER_SECONDS = 2

# Seconds between two looks whether a process is ready, or has ended.
LOOK_SECONDS = 0.05

# Timeout of the end of a killed process. It takes milliseconds, unless the process waits for a device.
STOP_SECONDS = 5

# The log of a process is emptied between windows when it is longer, because a process logs each request.
MAX_LOG_BYTES = 2**20

# A line of the log without a fault, as text or as JSON: see `app/observability/logging.py`.
INFORMATION = re.compile(r'\S+ (DEBUG|INFO) |\{"time": "[^"]*", "level": "(debug|info)"')

# Settings of the user that do not apply to a private process on the loopback address.
REPLACED = frozenset({"host", "port", "grpc_port", "root_path", "drain_delay"})

# Attempts to start on a free port. Another process can take the port before the service does.
TRIES = 3


class ServiceEnded(Exception):
    """The service has ended by itself. The message is the reason."""


def variables_of(settings: Settings) -> dict[str, str]:
    """Return the settings that the user has given, as environment variables."""
    given = {name: getattr(settings, name) for name in settings.model_fields_set - REPLACED}
    return {f"{PREFIX}{name.upper()}": _text(value) for name, value in given.items() if value is not None}


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(_text(each) for each in value)
    if isinstance(value, bool):
        return str(value).lower()
    if hasattr(value, "get_secret_value"):
        return str(value.get_secret_value())
    return str(value)


class ServiceProcess:
    """A running service. Create it with `start`."""

    def __init__(self, process: "subprocess.Popen[bytes]", target: Target, log: IO[bytes]) -> None:
        self._process, self.target, self._log = process, target, log
        self.start_seconds = 0.0

    @classmethod
    async def start(cls, variables: Mapping[str, str], key: str | None, limit: float) -> Self:
        """Start a service, and return when it is ready.

        Args:
            variables: its settings as environment variables. Others with the prefix of settings are removed.
            key: an API key, or None.
            limit: seconds until then, at most.

        Raises:
            StartError: the service cannot start with these settings.
        """
        for _ in range(TRIES - 1):
            with contextlib.suppress(_PortTaken):
                return await cls._start(variables, key, limit)
        try:
            return await cls._start(variables, key, limit)
        except _PortTaken as error:
            raise StartError(str(error)) from error

    @classmethod
    async def _start(cls, variables: Mapping[str, str], key: str | None, limit: float) -> Self:
        started, port = time.monotonic(), free_port()
        process, log = _child(_environment(variables, port))
        service = cls(process, Target(f"http://{HOST}:{port}", key), log)
        try:
            await service._wait_until_ready(limit)
        except ServiceEnded as error:
            service.stop()
            raise (_PortTaken if os.strerror(errno.EADDRINUSE) in str(error) else StartError)(str(error)) from error
        except BaseException:
            service.stop()
            raise
        service.start_seconds = time.monotonic() - started
        return service

    async def _wait_until_ready(self, limit: float) -> None:
        ends = time.monotonic() + limit
        with contextlib.closing(self.target.pool(1)) as pool:
            while time.monotonic() < ends:
                self.check()
                # A port that another process has taken may never answer.
                with contextlib.suppress(Broken, OSError):  # includes the timeout
                    async with asyncio.timeout(ANSWER_SECONDS):
                        if (await pool.send(self.target.get("/health/ready"))).status == OK:
                            return
                await asyncio.sleep(LOOK_SECONDS)
        raise StartError(
            f"not ready after {limit:.0f} s, a part of --minutes: {self._last_line() or 'no error in its log'}"
        )

    @property
    def pid(self) -> int:
        """The id of the process that was started."""
        return self._process.pid

    def check(self) -> None:
        """Raise if the process has ended, and empty its log if that has become long.

        Raises:
            ServiceEnded: it has ended.
        """
        if self._process.poll() is not None:
            raise ServiceEnded(self._reason())
        if os.fstat(self._log.fileno()).st_size > MAX_LOG_BYTES:
            os.ftruncate(self._log.fileno(), 0)

    def usage(self) -> ResourceUsage:
        """Return CPU time and memory of the process and its HTTP workers."""
        return resource_usage(self.pid)

    def stop(self) -> None:
        """Kill the process and its HTTP workers, and wait until none of them exists, or for `STOP_SECONDS`.

        Only the tuner sends requests to it, so nothing has to drain.
        """
        ends = time.monotonic() + STOP_SECONDS
        members = self._kill()
        while time.monotonic() < ends and (self._process.poll() is None or any(map(is_alive, members))):
            time.sleep(LOOK_SECONDS / 10)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._log.close()

    def _kill(self) -> list[int]:
        """Kill the process and its HTTP workers. Return their ids, if it had not ended before."""
        if self._process.poll() is not None:
            return []
        try:
            return kill_tree(self.pid)
        except OSError:  # no file can be opened to read /proc; HTTP workers exit with their parent
            self._process.kill()
            return [self.pid]

    def _reason(self) -> str:
        """Return why the process has ended: the signal, or else its last line."""
        code = self._process.returncode
        if code == -signal.SIGKILL:
            return "killed by SIGKILL; the usual cause is that there is not enough memory"
        if code < 0:
            return f"killed by {_signal_name(-code)}"
        return self._last_line() or f"exit code {code}, without an error in its log"

    def _last_line(self) -> str:
        """Return the last line of the log above the level `info`, at which a service logs each request."""
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        others = [line for line in lines if not INFORMATION.match(line)]
        return others[-1].removeprefix("swin-serve: ") if others else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


class _PortTaken(Exception):
    """Another process has taken the port. The message is the sentence of the service."""


def _log_file() -> IO[bytes]:
    """Return a file in memory, which needs no folder. The kernel deletes it with the last process that has it open."""
    log = os.fdopen(os.memfd_create("swin-log"), "w+b")
    flags = fcntl.fcntl(log, fcntl.F_GETFL)
    fcntl.fcntl(log, fcntl.F_SETFL, flags | os.O_APPEND)  # the service writes at the end, also of an emptied file
    return log


def _child(environment: Mapping[str, str]) -> tuple["subprocess.Popen[bytes]", IO[bytes]]:
    """Start the process of a service. Return it with its log.

    Raises:
        StartError: the system starts no more processes, or opens no more files.
    """
    try:
        with contextlib.ExitStack() as on_failure:
            log = on_failure.enter_context(_log_file())
            process = subprocess.Popen(
                # -P: `-m` alone would begin in the working directory, which can hold another package named app.
                [sys.executable, "-P", "-m", "app.tuning.child", "run"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
            )
            on_failure.pop_all()
            return process, log
    except OSError as error:
        raise StartError(f"cannot start a process: {error.strerror}") from error


def _environment(variables: Mapping[str, str], port: int) -> dict[str, str]:
    """Return the environment of a service, which imports modules from where this process found them."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return {
        **others,
        **variables,
        f"{PREFIX}HOST": HOST,
        f"{PREFIX}PORT": str(port),
        "OTEL_SDK_DISABLED": "true",  # thousands of artificial requests are no traces for a collector
        "PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path),
    }
