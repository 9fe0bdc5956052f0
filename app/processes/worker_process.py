"""One HTTP worker as the process of the engines sees it: its process, its channel, and what it said last."""

import asyncio
import itertools
import logging
import os
import pickle
import sys
import time
from collections.abc import Callable, Mapping
from socket import socket

from app.observability.metrics import Counts
from app.processes.batcher_server import BatcherServer
from app.processes.channel import COUNT, COUNTS, HELLO, NUMBER, Channel
from app.processes.http_worker import InheritedFds

log = logging.getLogger("swin.workers")

START_SECONDS = 60
"""An HTTP worker that has not begun after so long will not."""

COUNT_SECONDS = 0.5
"""How long who asks for metrics waits for an HTTP worker's; then what it said last is taken."""


class WorkerProcess:
    """One HTTP worker, from its start to its end.

    `index` is its place among the HTTP workers.
    """

    process: asyncio.subprocess.Process  # once it is started, as the next
    channel: Channel
    counts: Counts  # what its metrics said last

    def __init__(self, index: int) -> None:
        self.index = index
        self.has_begun: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.heard_at = time.monotonic() + START_SECONDS
        self.counts = []
        self._numbers = itertools.count(1)  # 0 is of counts that nobody asked for
        self._counting: dict[int, asyncio.Future[None]] = {}

    async def start(
        self, ends: InheritedFds, ours: socket, handlers: Mapping[int, Callable[[bytes], None]], server: BatcherServer
    ) -> None:
        """Open the channel, and a process at its other end."""
        own = {HELLO: self._begin, COUNTS: self._take_counts}
        self.channel = Channel({**own, **handlers}, server.close)
        await self.channel.open(ours)
        command = (sys.executable, "-P", "-m", "app.processes.http_worker", *map(str, ends))
        # Its modules are looked for where this process found them: `-m` alone would begin in the working directory,
        # where an app.py of somebody else's may lie.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}
        self.process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, pass_fds=ends, env=environment
        )

    @property
    def has_ended(self) -> bool:
        """Whether its process is no more."""
        return self.process.returncode is not None

    async def end(self) -> int:
        """Wait for it; its exit code."""
        code = await self.process.wait()
        self.channel.close()
        if not self.has_begun.done():
            self.has_begun.set_result(False)
        return code

    def kill(self) -> None:
        """End its process now, if it has not ended."""
        if not self.has_ended:
            self.process.kill()

    async def count(self) -> None:
        """Hear what its metrics say now, or leave it at what they said last; nothing before it has begun."""
        if not self.has_begun.done():
            return
        number, counted = next(self._numbers), asyncio.get_running_loop().create_future()
        self._counting[number] = counted
        try:
            self.channel.send(COUNT, NUMBER.pack(number))
            await asyncio.wait([counted], timeout=COUNT_SECONDS)
        finally:
            del self._counting[number]

    def _begin(self, _: bytes) -> None:
        self.has_begun.set_result(True)
        self.heard_at = time.monotonic()
        log.info("http_worker", extra={"index": self.index, "pid": self.process.pid})

    def _take_counts(self, payload: bytes) -> None:
        (number,) = NUMBER.unpack_from(payload)
        self.heard_at = time.monotonic()
        try:
            if counts := payload[NUMBER.size :]:  # none where the HTTP worker could not count
                self.counts = pickle.loads(counts)  # noqa: S301 (from an HTTP worker that this process started)
        finally:
            if number in self._counting and not self._counting[number].done():
                self._counting[number].set_result(None)
