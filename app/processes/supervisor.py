"""Supervisor of the HTTP workers, in the engine process: starts, monitors, restarts and stops them.

Each HTTP worker has a listening socket on the shared port, a tensor pool and a channel. If a worker
crashes, only the requests that it was serving fail. Its images are cancelled and its memory is freed.
A new worker takes over the same listening socket, where connections wait until then.
"""

import asyncio
import contextlib
import logging
import math
import os
import pickle
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from socket import socket, socketpair
from typing import Any

from app.batching.batcher import Batcher
from app.errors import StartError
from app.models.model import Backend
from app.observability.aggregation import exposition, merge, totals
from app.observability.metrics import Counts, Metrics
from app.observability.statistics import Statistics, statistics
from app.observability.utilization import BusySeconds, busy_seconds, total
from app.processes.batcher_server import BatcherServer
from app.processes.http_worker import InheritedFds
from app.processes.messages import REPLY_STRUCT, REQUEST_ID, MessageType
from app.processes.shared_memory import SharedLoad, TensorPool, create_memory, pool_size, write_shared
from app.processes.worker_config import WorkerConfig
from app.processes.worker_process import START_TIMEOUT_SECONDS, WorkerProcess

log = logging.getLogger("swin.processes")

# If an HTTP worker exits this many times in a row before it is ready, the service stops.
MAX_FAILED_STARTS = 10

# Seconds without a message until an HTTP worker times out, or `batch_timeout` if that is longer. A
# worker sends its metrics every second.
HEARTBEAT_TIMEOUT_SECONDS = 5

# Seconds before the next start of an HTTP worker that exited before it was ready.
RESTART_DELAY_SECONDS = 1

# Seconds that HTTP workers get to exit, beyond `drain_delay` and `drain_timeout`.
EXIT_GRACE_SECONDS = 5

# Seconds between two checks of the HTTP workers.
MONITOR_INTERVAL_SECONDS = 0.1

# If a check is late by this many seconds, the engine process itself was paused, so no heartbeat has expired.
MONITOR_LATE_SECONDS = 1


class WorkerLost(Exception):
    """An HTTP worker exits before it is ready, however often it is restarted."""


class Supervisor:
    """All HTTP workers of the service, one per listener.

    Args:
        config: sent to each worker at its start.
        listeners: bound to the same address, one per worker.
        batcher: the queue that all workers share.
        backend: replies to queries about the engines.
        metrics: those of the engine process.
    """

    def __init__(
        self, config: WorkerConfig, listeners: Sequence[socket], batcher: Batcher, backend: Backend, metrics: Metrics
    ) -> None:
        self._config, self._listeners, self._batcher = config, listeners, batcher
        self._backend, self._metrics = backend, metrics
        self._load_fd = create_memory("swin-load", SharedLoad.SIZE)
        self._shared_load = SharedLoad(self._load_fd)
        self._config_fd = write_shared("swin-config", config)
        self._workers: list[WorkerProcess] = []
        self._restart_tasks: list[asyncio.Task[None]] = []  # one per worker
        self._monitor_task: asyncio.Task[None] | None = None
        self._exited_counts: Counts = []  # metrics of workers that have exited
        self._reply_tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = self._is_publish_scheduled = False

    @property
    def is_ready(self) -> bool:
        """True if the service can classify images."""
        return self._batcher.works and not self._is_stopping

    async def start(self) -> None:
        """Start all workers and return when all of them accept connections.

        Raises:
            StartError: a worker cannot be started, exits, or is not ready in time.
        """
        self._publish_load()
        try:
            for index in range(len(self._listeners)):
                self._workers.append(await self._start_worker(index))
        except OSError as error:
            raise StartError(f"cannot start an HTTP worker: {error.strerror}") from error
        self._restart_tasks = [asyncio.create_task(self._restart_when_exited(worker)) for worker in self._workers]
        self._monitor_task = asyncio.create_task(self._monitor())
        ready, late = await asyncio.wait([worker.ready for worker in self._workers], timeout=START_TIMEOUT_SECONDS)
        if late or not all(each.result() for each in ready):
            raise StartError(f"an HTTP worker exited, or was not ready after {START_TIMEOUT_SECONDS} s; see the log")

    async def watch(self) -> None:
        """Wait until the supervision fails. Never returns.

        Raises:
            WorkerLost: a worker cannot be restarted.
            Exception: the error that ended a task of the supervisor.
        """
        tasks = [*self._restart_tasks, *([self._monitor_task] if self._monitor_task else [])]
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()

    async def stop(self) -> None:
        """Let the workers drain, as long as the settings allow, then kill those that still run.

        Does nothing but close the listeners if `start` was not called.
        """
        self._is_stopping = True
        for listener in self._listeners:
            listener.close()  # only this process's copy; each worker closes its own when no connection waits any more
        self.request_shutdown()
        for task, worker in zip(self._restart_tasks, self._workers, strict=False):
            if worker.has_exited:
                task.cancel()  # it is about to start a new worker
        if self._restart_tasks:
            settings = self._config.settings
            timeout = settings.drain_delay + settings.drain_timeout + EXIT_GRACE_SECONDS
            await asyncio.wait(self._restart_tasks, timeout=timeout)
        for worker in self._workers:
            worker.kill()
        if self._monitor_task is not None:
            self._monitor_task.cancel()

    def request_shutdown(self) -> None:
        """Send SHUTDOWN to all workers. After a second call they exit without draining."""
        for worker in self._workers:
            worker.channel.send(MessageType.SHUTDOWN)

    async def exposition(self) -> bytes:
        """Return the metrics of all processes, added up."""
        return exposition(*await self._fresh_counts())

    async def statistics(self) -> Statistics:
        """Return the counts and times of inference of all processes, added up."""
        return statistics(merge(await self._fresh_counts()), self._metrics.batch_times)

    def busy(self) -> BusySeconds:
        """Return the seconds for which each component of the service has been busy."""
        return total(*map(busy_seconds, self._all_counts()))

    async def _fresh_counts(self) -> list[Counts]:
        """Return the metrics of each process at this moment."""
        if self._workers:
            await asyncio.wait([asyncio.create_task(worker.refresh_metrics()) for worker in self._workers])
        return self._all_counts()

    def _all_counts(self) -> list[Counts]:
        return [self._metrics.counts(), self._exited_counts, *(worker.counts for worker in self._workers)]

    async def _start_worker(self, index: int) -> WorkerProcess:
        worker = WorkerProcess(index)
        layout = self._config.layout
        # The file descriptors of the new process are closed here once it has inherited them. The channel
        # reports the exit of the worker only if no other process holds the worker's end.
        with contextlib.ExitStack() as inherited:
            pool_fd = create_memory("swin-slots", pool_size(layout))
            inherited.callback(os.close, pool_fd)
            own_end, worker_end = socketpair()
            inherited.enter_context(worker_end)
            fds = InheritedFds(
                worker_end.fileno(), self._listeners[index].fileno(), self._load_fd, pool_fd, self._config_fd
            )
            server = BatcherServer(
                self._batcher, TensorPool(pool_fd, layout), lambda *message: self._send_result(worker, *message)
            )
            handlers: dict[int, Callable[[bytes], None]] = {
                MessageType.SUBMIT: self._then_publish_load(server.submit),
                MessageType.CANCEL: server.cancel,
                MessageType.QUERY: lambda payload: self._receive_query(worker, payload),
            }
            await worker.start(fds, own_end, handlers, server)
        return worker

    async def _restart_when_exited(self, worker: WorkerProcess) -> None:
        """Replace the worker whenever it exits, until the service stops or restarts keep failing."""
        failed_starts = 0
        while True:
            code = await worker.wait()
            self._exited_counts, worker.counts = merge([self._exited_counts, totals(worker.counts)]), []
            if self._is_stopping:
                return
            log.error("HTTP worker exited", extra={"index": worker.index, "code": code})
            self._metrics.http_worker_restarts.inc()
            failed_starts = 0 if worker.ready.result() else failed_starts + 1
            if failed_starts == MAX_FAILED_STARTS:
                raise WorkerLost(
                    f"HTTP worker {worker.index} exited {failed_starts} times in a row before it was ready"
                )
            if failed_starts:
                await asyncio.sleep(RESTART_DELAY_SECONDS)
            worker = self._workers[worker.index] = await self._start_worker_with_retries(worker.index)

    async def _start_worker_with_retries(self, index: int) -> WorkerProcess:
        """Try until the system has enough memory, processes and file descriptors for a worker."""
        while True:
            try:
                return await self._start_worker(index)
            except OSError:
                log.exception("HTTP worker not started", extra={"index": index})
                await asyncio.sleep(RESTART_DELAY_SECONDS)

    async def _monitor(self) -> None:
        """Publish the load every 100 ms, and kill a worker when its heartbeat has expired."""
        timeout = max(self._config.settings.batch_timeout, HEARTBEAT_TIMEOUT_SECONDS)
        checked_at = time.monotonic()
        while True:
            await asyncio.sleep(MONITOR_INTERVAL_SECONDS)
            self._publish_load()
            checked_at, previous = time.monotonic(), checked_at
            for worker in self._workers:
                if checked_at - previous > MONITOR_LATE_SECONDS:  # a container may be paused with all its processes
                    worker.last_heartbeat = max(worker.last_heartbeat, checked_at)
                if time.monotonic() > worker.last_heartbeat + timeout:
                    log.error("HTTP worker timed out", extra={"index": worker.index})
                    worker.last_heartbeat = math.inf
                    worker.kill()

    def _then_publish_load(self, handle: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def handle_and_publish(payload: bytes) -> None:
            handle(payload)
            self._publish_load_soon()

        return handle_and_publish

    def _send_result(self, worker: WorkerProcess, kind: MessageType, payload: bytes) -> None:
        worker.channel.send(kind, payload)
        self._publish_load_soon()

    def _publish_load_soon(self) -> None:
        """Publish the load once, at the end of this event-loop iteration, in which the batcher may take images."""
        if not self._is_publish_scheduled:
            self._is_publish_scheduled = True
            asyncio.get_running_loop().call_soon(self._publish_load)

    def _publish_load(self) -> None:
        self._is_publish_scheduled = False
        self._shared_load.write(self._batcher.load)

    def _receive_query(self, worker: WorkerProcess, payload: bytes) -> None:
        (request_id,) = REQUEST_ID.unpack_from(payload)
        queries: Mapping[bytes, Callable[[], Awaitable[Any]]] = {
            b"exposition": self.exposition,
            b"statistics": self.statistics,
            b"report": self._backend.report,
        }
        task = asyncio.create_task(self._reply(worker, request_id, queries.get(payload[REQUEST_ID.size :])))
        self._reply_tasks.add(task)  # asyncio keeps only weak references to tasks
        task.add_done_callback(self._reply_tasks.discard)

    async def _reply(self, worker: WorkerProcess, request_id: int, query: Callable[[], Awaitable[Any]] | None) -> None:
        """Send the result of a query, or that it failed. `query` is None if its name is unknown."""
        succeeded, result = False, b""
        try:
            result = pickle.dumps(await query()) if query else b""
            succeeded = query is not None
        except Exception:
            log.exception("query failed", extra={"index": worker.index})
        worker.channel.send(MessageType.REPLY, REPLY_STRUCT.pack(request_id, succeeded) + result)
