"""A `swin-serve` process, started here and seen from outside: its log, its metrics, what `/proc` says of it."""

import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.load.clients import Address, Callers, request
from benchmarks.load.processes import TICKS, stat

START_SECONDS = 120
"""The longest wait for the next event of a process, and for its end: it finds a hang. A busy machine needs 30 s."""

PAGE = os.sysconf("SC_PAGESIZE")


class Usage(NamedTuple):
    """What a process has taken, as the kernel counts."""

    cpu_seconds: float  # user and system, all threads
    rss: int  # bytes
    threads: int
    files: int


class Accounts(NamedTuple):
    """Ids and status codes of requests, as the service logs them."""

    requests: list[tuple[str, int]]  # by the application
    refusals: list[tuple[str, int]]  # at the connection, before or instead of the application


class Served:
    """A real `swin-serve` on a port of its own; its log is read event by event.

    Args:
        options: of `swin-serve run`.
        module: what to run instead of the service itself.
        environment: variables to set for it.
    """

    def __init__(self, *options: str, module: str = "app", **environment: str) -> None:
        command = [sys.executable, "-m", module, "run", "--device", "cpu", "--log-format", "json", "--port", "0"]
        self.process = subprocess.Popen(  # noqa: S603 (our own interpreter)
            [*command, *options], stderr=subprocess.PIPE, text=True, env=os.environ | environment
        )
        self.log: queue.Queue[dict[str, object]] = queue.Queue()
        self._accounts: Accounts | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.starting = list(self._until("listening"))  # what it logged by then
        except BaseException:
            self.stop()
            raise
        self.url = str(self.starting[-1]["url"])
        host, port = self.url.removeprefix("http://").split(":")
        self.address: Address = (host, int(port))

    def _read(self) -> None:
        assert self.process.stderr is not None  # noqa: S101 (it is a pipe)
        for line in self.process.stderr:
            event = _event(line)
            if self._accounts is not None and event["message"] == "request":
                self._accounts.requests.append((str(event["request_id"]), int(str(event["code"]))))
            elif self._accounts is not None and event["message"] == "refused" and "status" in event:
                self._accounts.refusals.append((str(event["request_id"]), int(str(event["status"]))))
            else:
                self.log.put(event)

    def watch_requests(self) -> Accounts:
        """Return what the log says of requests from now on; it is complete once the process has ended."""
        self._accounts = Accounts([], [])
        return self._accounts

    def wait_for(self, message: str) -> dict[str, object]:
        """The next event of this name."""
        *_, event = self._until(message)
        return event

    def _until(self, message: str) -> Iterator[dict[str, object]]:
        """The next events, to the first of this name."""
        event: dict[str, object] = {"message": None}
        while event["message"] != message:
            yield (event := self.log.get(timeout=START_SECONDS))

    def usage(self) -> Usage:
        """What the process has taken until now, and holds now."""
        fields = stat(self.process.pid)
        user, system, threads, pages = (int(fields[place - 3]) for place in (14, 15, 20, 24))  # proc(5) counts from 1
        files = list(Path(f"/proc/{self.process.pid}/fd").iterdir())
        return Usage((user + system) / TICKS, pages * PAGE, threads, len(files))

    def peak(self) -> int:
        """The most memory it has held at once, in bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) * 2**10

    def stop(self) -> int:
        """End it if it still runs; its exit code."""
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
    except ValueError:  # not from the service's own log: an interpreter that dies says so
        return {"level": "critical", "message": line.rstrip()}
    return event


async def metrics(callers: Callers) -> dict[str, float]:
    """Samples by name and labels, as they are written: `swin_queue_depth`, `swin_cancelled_total{stage="queue"}`."""
    lines = (await callers.ask(request("/metrics", method="GET"))).body.decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(value) for name, _, value in samples}
