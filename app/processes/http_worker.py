"""One HTTP worker: `python -m app.processes.http_worker`, which only `supervisor.py` starts.

Takes connections, reads, decodes and ranks as a service that is one process does; only the batcher is elsewhere. It
leaves when it is told to, or when that process has gone. Loads neither ONNX Runtime nor the network.
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

from app.batching.admission import BatcherLimits
from app.bundle.load import Contents
from app.errors import InternalError, NotReady
from app.http.application import application, running_service
from app.models.model import Service
from app.observability import logging as logs
from app.observability.metrics import Metrics
from app.processes.batcher_client import BatcherClient
from app.processes.channel import ANSWER, ASK, COUNT, COUNTS, HELLO, NUMBER, REPLY, REPLY_OF, STOP, Channel
from app.processes.shared_memory import SharedLoad, TensorLayout, TensorPool, read_shared
from app.server.server import App, Server, uvicorn_config
from app.settings import Settings
from app.system import memory
from app.system.process_exit import end, leave

log = logging.getLogger("swin.start")

COUNTS_SECONDS = 1
"""Between two looks at the metrics that are sent without being asked for: what is lost with an HTTP worker that dies."""

ASK_SECONDS = 10
"""How long what the process of the engines knows may take to come."""

UNASKED = NUMBER.pack(0)


class InheritedFds(NamedTuple):
    """File descriptors that an HTTP worker is born with."""

    channel: int
    listener: int
    board: int
    slots: int
    config: int


class WorkerConfig(NamedTuple):
    """What an HTTP worker has to know, as the process of the engines knows it."""

    settings: Settings
    bundle: Contents
    limits: BatcherLimits
    shapes: TensorLayout
    decode_threads: int


class HttpWorker:
    """The service of this process, and its line to the engines."""

    def __init__(self, ends: InheritedFds, config: WorkerConfig) -> None:
        self._papers, self._ends = config, ends
        self.bundle = config.bundle
        self.batcher: BatcherClient
        self._metrics = Metrics()
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count()
        self._channel: Channel
        self._server: FrontendServer | None = None
        self._is_told_to_stop = self._has_done = False

    async def run(self) -> None:
        """Until it is told to stop."""
        settings = self._papers.settings
        app = application(settings, self._metrics, self._open)
        async with app.router.lifespan_context(app):
            memory.settle()
            server = FrontendServer(app, settings, app.state.service, lambda: self._channel.send(HELLO))
            self._server = server
            if self._is_told_to_stop:
                server.handle_exit(signal.SIGTERM, None)
            counting = asyncio.create_task(self._count_on())
            await server.serve(sockets=[socket.socket(fileno=self._ends.listener)])
            counting.cancel()
        self._has_done = True
        self._count()
        self._channel.close()

    async def exposition(self) -> bytes:
        """Of all processes, as the one of the engines adds them up."""
        text: bytes = await self._ask("exposition")
        return text

    async def report(self) -> dict[str, Any]:
        """As that process has it."""
        report: dict[str, Any] = await self._ask("report")
        return report

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Service]:
        settings, _, limits, shapes, threads = self._papers
        handlers = dict[int, Callable[[bytes], None]]()
        self._channel = Channel(handlers, self._end)
        slots, board = TensorPool(self._ends.slots, shapes), SharedLoad(self._ends.board)
        self.batcher = BatcherClient(slots, board, limits, self._channel.send)
        handlers |= {ANSWER: self.batcher.take_answer, COUNT: self._count, REPLY: self._take_reply, STOP: self._stop}
        await self._channel.open(socket.socket(fileno=self._ends.channel))
        async with running_service(settings, self, self._metrics, threads) as service:
            yield service

    async def _ask(self, name: str) -> Any:
        number = next(self._numbers)
        self._asked[number] = asyncio.get_running_loop().create_future()
        self._channel.send(ASK, NUMBER.pack(number) + name.encode())
        try:
            async with asyncio.timeout(ASK_SECONDS):
                return await self._asked[number]
        except TimeoutError:
            raise NotReady from None
        finally:
            del self._asked[number]

    def _take_reply(self, payload: bytes) -> None:
        number, is_answered = REPLY_OF.unpack_from(payload)
        reply = self._asked.get(number)
        if reply is None or reply.done():
            return
        if not is_answered:  # the cause is in the log of the process of the engines
            reply.set_exception(InternalError())
            return
        try:
            reply.set_result(pickle.loads(payload[REPLY_OF.size :]))  # noqa: S301 (from the process that started this one)
        except Exception:
            log.exception("reply not read")
            reply.set_exception(InternalError())

    def _count(self, number: bytes = UNASKED) -> None:
        try:
            counts = pickle.dumps(self._metrics.counts())
        except Exception:
            log.exception("metrics not counted")
            counts = b""  # what was sent before stands; that this process lives is told all the same
        self._channel.send(COUNTS, number + counts)

    def _stop(self, _: bytes) -> None:
        if self._server is None:
            self._is_told_to_stop = True
        else:
            self._server.handle_exit(signal.SIGTERM, None)

    def _end(self) -> None:
        """The process of the engines has gone: nothing can be answered any more. Or this one goes."""
        if not self._has_done:
            log.critical("the process of the engines has gone")
            leave(1)  # no answer can come any more, whatever runs here

    async def _count_on(self) -> None:
        while True:
            await asyncio.sleep(COUNTS_SECONDS)
            self.batcher.look()
            self._count()


class FrontendServer(Server):
    """Signals are for the process of the engines, which then tells its HTTP workers.

    `on_start` is called once connections are taken.
    """

    def __init__(self, app: App, settings: Settings, service: Service, on_start: Callable[[], None]) -> None:
        super().__init__(uvicorn_config(app, settings), settings, service)
        self._on_start = on_start

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """None."""
        yield

    def on_listening(self, listeners: Sequence[socket.socket]) -> None:  # noqa: ARG002 (that process says it for all)
        """Say that there is one more."""
        self._on_start()


def _read(file: int) -> WorkerConfig:
    config: WorkerConfig = read_shared(file)
    os.close(file)
    return config


def main() -> int:
    """Serve until told to stop. Returns the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):  # they reach every process of a terminal, or of a container
        signal.signal(number, signal.SIG_IGN)
    ends = InheritedFds(*map(int, sys.argv[1:]))
    config = _read(ends.config)
    logs.configure(config.settings.log_format, config.settings.log_level)
    memory.give_back()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(HttpWorker(ends, config).run())
    return end(0)


if __name__ == "__main__":
    sys.exit(main())
