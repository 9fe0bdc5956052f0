"""Parent-side handle of one HTTP worker: subprocess, channel and last reported metrics."""

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
from app.processes.channel import Channel
from app.processes.http_worker import InheritedFds
from app.processes.messages import REQUEST_ID, MessageType

log = logging.getLogger("swin.processes")

# Seconds until a new HTTP worker has to send READY. After them, it counts as timed out.
START_TIMEOUT_SECONDS = 60

# Timeout for collecting a worker's metrics. After it, the last reported values are used.
METRICS_TIMEOUT_SECONDS = 0.5


class WorkerProcess:
    """One HTTP worker, from the start of its process to the exit.

    `index` is its number among the HTTP workers. Its replacement after an exit gets the same index.
    """

    process: asyncio.subprocess.Process  # set by `start`, like the channel
    channel: Channel
    counts: Counts  # the last reported metrics

    def __init__(self, index: int) -> None:
        self.index = index
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()  # False: it exited before
        self.last_heartbeat = time.monotonic() + START_TIMEOUT_SECONDS
        self.counts = []
        self._request_ids = itertools.count(1)  # 0 marks METRICS that were not asked for
        self._requests: dict[int, asyncio.Future[None]] = {}  # GET_METRICS without a reply so far, by request id

    async def start(
        self,
        fds: InheritedFds,
        channel_end: socket,
        handlers: Mapping[int, Callable[[bytes], None]],
        server: BatcherServer,
    ) -> None:
        """Open the channel and start the process at its other end."""
        own: dict[int, Callable[[bytes], None]] = {
            MessageType.READY: self._on_ready,
            MessageType.METRICS: self._receive_metrics,
        }
        self.channel = Channel({**own, **handlers}, server.close)
        await self.channel.open(channel_end)
        command = (sys.executable, "-P", "-m", "app.processes.http_worker", *map(str, fds))
        # Import modules from where this process found them. `-m` alone would begin in the working
        # directory, which may hold an unrelated app.py.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.curdir for path in sys.path)}
        self.process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.DEVNULL, pass_fds=fds, env=environment
        )

    @property
    def has_exited(self) -> bool:
        """True if the process has exited."""
        return self.process.returncode is not None

    async def wait(self) -> int:
        """Wait until the process exits and return its exit code."""
        code = await self.process.wait()
        self.channel.close()
        if not self.ready.done():
            self.ready.set_result(False)
        return code

    def kill(self) -> None:
        """Kill the process unless it has exited."""
        if not self.has_exited:
            self.process.kill()

    async def refresh_metrics(self) -> None:
        """Ask the worker for its metrics. Keep the last reported values if it is not ready or does not reply."""
        if not self.ready.done():
            return
        request_id, received = next(self._request_ids), asyncio.get_running_loop().create_future()
        self._requests[request_id] = received
        try:
            self.channel.send(MessageType.GET_METRICS, REQUEST_ID.pack(request_id))
            await asyncio.wait([received], timeout=METRICS_TIMEOUT_SECONDS)
        finally:
            del self._requests[request_id]

    def _on_ready(self, _: bytes) -> None:
        self.ready.set_result(True)
        self.last_heartbeat = time.monotonic()
        log.info("HTTP worker started", extra={"index": self.index, "pid": self.process.pid})

    def _receive_metrics(self, payload: bytes) -> None:
        (request_id,) = REQUEST_ID.unpack_from(payload)
        self.last_heartbeat = time.monotonic()
        try:
            if counts := payload[REQUEST_ID.size :]:  # empty if the worker could not collect its metrics
                self.counts = pickle.loads(counts)  # noqa: S301 (from a process that this process started)
        finally:
            if request_id in self._requests and not self._requests[request_id].done():
                self._requests[request_id].set_result(None)
