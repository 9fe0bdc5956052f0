"""A `swin-serve` process under test: its log, its metrics, and its CPU time and memory in `/proc`.

Knows nothing about the inside of the service.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from app.load.client_pool import Address, request
from app.system.processes import TICKS, process_stat
from benchmarks.load.clients import ConnectionPool

# Timeout, in seconds, for the next log event of a process and for its exit. A busy machine needs 30 s.
START_SECONDS = 120

# Bytes of a memory page: the unit of RSS in `/proc`.
PAGE = os.sysconf("SC_PAGESIZE")


class Usage(NamedTuple):
    """Resources of one process, without its children, as the kernel counts them."""

    cpu_seconds: float  # user and system, all threads
    rss: int  # bytes
    threads: int
    files: int  # open file descriptors


class Accounts(NamedTuple):
    """Requests and their status codes, as the service logs them."""

    requests: list[tuple[str, int]]  # answered by the application, or as calls of gRPC
    refusals: list[tuple[str, int]]  # refused at the connection, before or instead of the application
    calls: list[tuple[str, str]]  # the calls of gRPC among the requests, with their status
    paths: Counter[tuple[str, int]]  # the number of requests by path and code


class Served:
    """A running `swin-serve` process on a free port. Its log is read event by event.

    Args:
        options: options of `swin-serve run`.
        module: the module to run, `app` by default.
        environment: environment variables to add.
    """

    def __init__(self, *options: str, module: str = "app", **environment: str) -> None:
        command = [sys.executable, "-m", module, "run", "--device", "cpu", "--log-format", "json", "--port", "0"]
        self.process = subprocess.Popen(  # noqa: S603 (this interpreter)
            [*command, *options], stderr=subprocess.PIPE, text=True, env=os.environ | environment
        )
        self.log: queue.Queue[dict[str, object]] = queue.Queue()
        self._accounts: Accounts | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.starting = list(self._until("listening"))  # the events of the start
        except BaseException:
            self.stop()
            raise
        self.url = str(self.starting[-1]["url"])
        host, port = self.url.removeprefix("http://").split(":")
        self.address: Address = (host, int(port))

    @property
    def grpc_address(self) -> str:
        """The address of gRPC, as the service logs it."""
        (event,) = [event for event in self.starting if event["message"] == "listening for gRPC"]
        return str(event["address"])

    def _read(self) -> None:
        assert self.process.stderr is not None  # noqa: S101 (it is a pipe)
        for line in self.process.stderr:
            event = _event(line)
            if self._accounts is not None and event["message"] == "request":
                identity, code = str(event["request_id"]), int(str(event["code"]))
                self._accounts.requests.append((identity, code))
                self._accounts.paths[str(event["path"]), code] += 1
                if "grpc_status" in event:
                    self._accounts.calls.append((identity, str(event["grpc_status"])))
            elif self._accounts is not None and event["message"] == "refused" and "status" in event:
                self._accounts.refusals.append((str(event["request_id"]), int(str(event["status"]))))
            else:
                self.log.put(event)

    def watch_requests(self) -> Accounts:
        """Collect the requests in the log from now on.

        The result is complete when the process has ended.
        """
        self._accounts = Accounts([], [], [], Counter())
        return self._accounts

    def wait_for(self, message: str) -> dict[str, object]:
        """Return the next log event of this message, and drop the events before it."""
        *_, event = self._until(message)
        return event

    def _until(self, message: str) -> Iterator[dict[str, object]]:
        """Yield log events up to the first one of this message."""
        event: dict[str, object] = {"message": None}
        while event["message"] != message:
            yield (event := self.log.get(timeout=START_SECONDS))

    def usage(self) -> Usage:
        """Return the CPU time so far, and the memory, threads and open files now."""
        fields = process_stat(self.process.pid)
        user, system, threads, pages = (int(fields[place - 3]) for place in (14, 15, 20, 24))  # proc(5) counts from 1
        files = list(Path(f"/proc/{self.process.pid}/fd").iterdir())
        return Usage((user + system) / TICKS, pages * PAGE, threads, len(files))

    def stop(self) -> int:
        """Kill the process if it still runs. Return its exit code."""
        if self.process.poll() is None:
            self.process.kill()
        code = self.process.wait(timeout=START_SECONDS)
        self._reader.join()
        assert self.process.stderr is not None  # noqa: S101 (it is a pipe)
        self.process.stderr.close()
        return code


def _event(line: str) -> dict[str, object]:
    try:
        event: dict[str, object] = json.loads(line)
    except ValueError:  # not a log event: the traceback of a Python interpreter that fails
        return {"level": "critical", "message": line.rstrip()}
    return event


async def metrics(pool: ConnectionPool) -> dict[str, float]:
    """Return samples of `/metrics` by name and labels: `swin_queue_depth`, `swin_cancelled_total{stage="queue"}`."""
    lines = (await pool.ask(request("/metrics", method="GET"))).body.decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}
