"""One HTTP worker: `python -m app.processes.http_worker`, which only the supervisor starts.

Accepts connections, reads, decodes and ranks like a service of one process. The batcher runs in the
engine process. The worker exits on SHUTDOWN, or when the engine process exits. Loads neither ONNX
Runtime nor the network.
"""

import asyncio
import contextlib
import itertools
import logging
import os
import pickle
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import uvloop

from app.errors import InternalError, NotReady
from app.grpc import extra
from app.http.application import application, running_service
from app.models.model import Service
from app.observability import logging as logs
from app.observability.metrics import Metrics
from app.observability.statistics import Statistics
from app.observability.tracing import NoTracer, open_tracer
from app.processes.batcher_client import BatcherClient
from app.processes.channel import Channel
from app.processes.messages import REPLY_STRUCT, REQUEST_ID, MessageType
from app.processes.shared_memory import SharedLoad, TensorPool, read_shared
from app.processes.worker_config import WorkerConfig
from app.server.server import App, RpcServer, Server, uvicorn_config
from app.settings import Settings
from app.system import memory
from app.system.process_exit import end, exit_now

log = logging.getLogger("swin.processes")

# Seconds between two METRICS messages. A worker that crashes loses at most the metrics of this time.
METRICS_INTERVAL_SECONDS = 1

# Timeout of a QUERY to the engine process. After it, the client gets `NotReady`.
QUERY_TIMEOUT_SECONDS = 10

# The request id of METRICS that were not asked for.
UNREQUESTED = REQUEST_ID.pack(0)


class InheritedFds(NamedTuple):
    """File descriptors that an HTTP worker inherits from the engine process."""

    channel: int
    listener: int
    load: int
    tensors: int
    config: int


class HttpWorker:
    """The service in this process, and its channel to the engine process."""

    def __init__(self, fds: InheritedFds, config: WorkerConfig) -> None:
        self._config, self._fds = config, fds
        self.bundle = config.bundle
        self.batcher: BatcherClient
        self._metrics = Metrics()
        # The engine process has logged why tracing is off.
        self._tracer = open_tracer() if config.is_traced else NoTracer()
        self._queries: dict[int, asyncio.Future[Any]] = {}  # without a reply so far, by request id
        self._request_ids = itertools.count()
        self._channel: Channel
        self._server: HttpWorkerServer | None = None
        self._is_shutdown_requested = self._has_finished = False

    async def run(self) -> None:
        """Serve until SHUTDOWN."""
        settings = self._config.settings
        app = application(settings, self._metrics, self._tracer, self._open)
        async with (
            app.router.lifespan_context(app),
            extra.serving(app.state.service, self._config.grpc_address, self._tracer) as rpc_server,
        ):
            memory.freeze_gc()
            server = HttpWorkerServer(
                app, settings, app.state.service, rpc_server, lambda: self._channel.send(MessageType.READY)
            )
            self._server = server
            if self._is_shutdown_requested:
                server.handle_exit(signal.SIGTERM, None)
            reporting = asyncio.create_task(self._send_metrics_regularly())
            await server.serve(sockets=[socket.socket(fileno=self._fds.listener)])
            reporting.cancel()
        self._has_finished = True
        self._send_metrics()
        self._channel.close()
        self._tracer.close()

    async def exposition(self) -> bytes:
        """Return the metrics of all processes, which the engine process adds up."""
        text: bytes = await self._query("exposition")
        return text

    async def statistics(self) -> Statistics:
        """Return the statistics of all processes, which the engine process adds up."""
        found: Statistics = await self._query("statistics")
        return found

    async def report(self) -> dict[str, Any]:
        """Return the report of the engine process on its engines."""
        report: dict[str, Any] = await self._query("report")
        return report

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Service]:
        config = self._config
        handlers = dict[int, Callable[[bytes], None]]()
        self._channel = Channel(handlers, self._on_disconnect)
        pool, shared_load = TensorPool(self._fds.tensors, config.layout), SharedLoad(self._fds.load)
        self.batcher = BatcherClient(pool, shared_load, config.limits, self._channel.send)
        handlers |= {
            MessageType.RESULT: self.batcher.receive_result,
            MessageType.GET_METRICS: self._send_metrics,
            MessageType.REPLY: self._receive_reply,
            MessageType.SHUTDOWN: self._shut_down,
        }
        await self._channel.open(socket.socket(fileno=self._fds.channel))
        async with running_service(config.settings, self, self._metrics, config.decode_threads) as service:
            yield service

    async def _query(self, name: str) -> Any:
        request_id = next(self._request_ids)
        self._queries[request_id] = asyncio.get_running_loop().create_future()
        self._channel.send(MessageType.QUERY, REQUEST_ID.pack(request_id) + name.encode())
        try:
            async with asyncio.timeout(QUERY_TIMEOUT_SECONDS):
                return await self._queries[request_id]
        except TimeoutError:
            raise NotReady from None
        finally:
            del self._queries[request_id]

    def _receive_reply(self, payload: bytes) -> None:
        request_id, succeeded = REPLY_STRUCT.unpack_from(payload)
        reply = self._queries.get(request_id)
        if reply is None or reply.done():
            return
        if not succeeded:  # the engine process has logged the cause
            reply.set_exception(InternalError())
            return
        try:
            reply.set_result(pickle.loads(payload[REPLY_STRUCT.size :]))  # noqa: S301 (from the engine process)
        except Exception:
            log.exception("reply not read")
            reply.set_exception(InternalError())

    def _send_metrics(self, request_id: bytes = UNREQUESTED) -> None:
        try:
            counts = pickle.dumps(self._metrics.counts())
        except Exception:
            log.exception("metrics not collected")
            counts = b""  # the message is also a heartbeat; the engine process keeps the metrics that it has
        self._channel.send(MessageType.METRICS, request_id + counts)

    def _shut_down(self, _: bytes) -> None:
        if self._server is None:
            self._is_shutdown_requested = True
        else:
            self._server.handle_exit(signal.SIGTERM, None)

    def _on_disconnect(self) -> None:
        """Exit at once if the engine process has exited. Do nothing if this worker has finished."""
        if not self._has_finished:
            log.critical("engine process has exited")
            exit_now(1)  # without waiting for requests: none of them can get a result

    async def _send_metrics_regularly(self) -> None:
        while True:
            await asyncio.sleep(METRICS_INTERVAL_SECONDS)
            self.batcher.check_engine_process()
            self._send_metrics()


class HttpWorkerServer(Server):
    """The HTTP server of one worker. Ignores signals: the engine process handles them and sends SHUTDOWN.

    `on_start` is called once the server accepts connections.
    """

    def __init__(
        self,
        app: App,
        settings: Settings,
        service: Service,
        rpc_server: RpcServer | None,
        on_start: Callable[[], None],
    ) -> None:
        super().__init__(uvicorn_config(app, settings), settings, service, rpc_server)
        self._on_start = on_start

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def on_listening(self, listeners: Sequence[socket.socket]) -> None:  # noqa: ARG002 (the engine process logs them)
        self._on_start()


def _read_config(fd: int) -> WorkerConfig:
    config: WorkerConfig = read_shared(fd)
    os.close(fd)
    return config


def main() -> int:
    """Serve until SHUTDOWN and return the exit code."""
    # A terminal and a container send these to every process, but only the engine process acts on them.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    fds = InheritedFds(*map(int, sys.argv[1:]))
    config = _read_config(fds.config)
    logs.configure(config.settings.log_format, config.settings.log_level)
    memory.configure_malloc()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(HttpWorker(fds, config).run())
    return end(0)


if __name__ == "__main__":
    sys.exit(main())
