"""Processes that speak HTTP before the one that has the engines; this is that one's side.

Each HTTP worker has a listening socket of its own on the one port, its own memory for rows, and a channel. One that dies
takes the requests it was serving with it and nothing else: its rows are forgotten, its memory goes, and another takes
its place on the same socket, where meanwhile callers wait.
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
from app.observability.metrics import Counts, Metrics, exposition, merged, totals
from app.observability.utilization import Parts, busy, together
from app.processes.batcher_server import BatcherServer
from app.processes.channel import ASK, FORGET, NUMBER, REPLY, REPLY_OF, ROW, STOP
from app.processes.http_worker import InheritedFds, WorkerConfig
from app.processes.shared_memory import SharedLoad, TensorPool, memory, shared, size_of
from app.processes.worker_process import START_SECONDS, WorkerProcess

log = logging.getLogger("swin.workers")

MAX_FAILURES = 10
"""Supervisor that end before they have begun, one after another; then the service ends, for others to see to it."""

MUTE_SECONDS = 5
"""An HTTP worker that has said nothing for so long is stuck, unless `batch_timeout` is more. It has to, every second."""

PAUSE_SECONDS = 1
"""Before the next try, where one ended before it had begun."""

LAST_SECONDS = 5
"""How long HTTP workers may take to leave, beyond what the settings allow."""

LOOK_SECONDS, LATE_SECONDS = 0.1, 1
"""Between looks at how things stand when no row tells of it; a look so late tells of who looks, not of who is seen."""


class WorkerLost(Exception):
    """One that cannot be brought back."""


class Supervisor:
    """As many as there are listeners.

    Args:
        config: what each has to know.
        listeners: bound to the same address, each for one HTTP worker.
        batcher: where their rows go.
        backend: what is known here beside.
        metrics: of this process.
    """

    def __init__(
        self, config: WorkerConfig, listeners: Sequence[socket], batcher: Batcher, backend: Backend, metrics: Metrics
    ) -> None:
        self._papers, self._listeners, self._batcher = config, listeners, batcher
        self._backend, self._metrics = backend, metrics
        self._board_file = memory("swin-board", SharedLoad.SIZE)
        self._board = SharedLoad(self._board_file)
        self._papers_file = shared("swin-config", config)
        self._lives: list[WorkerProcess] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._gone: Counts = []  # what those have counted that are no more
        self._replies: set[asyncio.Task[None]] = set()
        self._is_stopping = self._is_posted = False

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered."""
        return self._batcher.works and not self._is_stopping

    async def start(self) -> None:
        """Return when all of them take connections.

        Raises:
            StartError: one of them does not.
        """
        self._post()
        try:
            for index in range(len(self._listeners)):
                self._lives.append(await self._open(index))
        except OSError as error:
            raise StartError(f"an HTTP worker cannot be started: {error.strerror}") from error
        self._tasks = [asyncio.create_task(self._keep(life)) for life in self._lives]
        self._tasks.append(asyncio.create_task(self._look_on()))
        begun, late = await asyncio.wait([life.has_begun for life in self._lives], timeout=START_SECONDS)
        if late or not all(each.result() for each in begun):
            raise StartError("an HTTP worker did not begin")

    async def watch(self) -> None:
        """Return never.

        Raises:
            WorkerLost: one of them cannot be brought back.
            Exception: whatever else those failed with that watch over them.
        """
        ended, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()

    async def stop(self) -> None:
        """Let them finish what they serve, as the settings allow, and end."""
        self._is_stopping = True
        for listener in self._listeners:
            listener.close()  # ours; theirs are closed by them, when nobody waits any more
        self.tell_to_stop()
        settings = self._papers.settings
        patience = settings.drain_delay + settings.drain_timeout + LAST_SECONDS
        *keepers, looking = self._tasks or [asyncio.create_task(asyncio.sleep(0))]
        for keeper, life in zip(keepers, self._lives, strict=False):
            if life.has_ended:
                keeper.cancel()  # it is about to start another
        if keepers:
            await asyncio.wait(keepers, timeout=patience)
        for life in self._lives:
            life.kill()
        looking.cancel()

    def tell_to_stop(self) -> None:
        """Finish and leave. Said again: leave now."""
        for life in self._lives:
            life.channel.send(STOP)

    async def exposition(self) -> bytes:
        """The metrics of all processes as if they were one."""
        if self._lives:
            await asyncio.wait([asyncio.create_task(life.count()) for life in self._lives])
        return exposition(self._metrics.counts(), self._gone, *(life.counts for life in self._lives))

    def busy(self) -> Parts:
        """Seconds that each part of the service has been busy."""
        return together(*map(busy, (self._metrics.counts(), self._gone, *(life.counts for life in self._lives))))

    async def _open(self, index: int) -> WorkerProcess:
        life = WorkerProcess(index)
        shapes = self._papers.shapes
        with contextlib.ExitStack() as theirs_to_close:
            file = memory("swin-slots", size_of(shapes))
            theirs_to_close.callback(os.close, file)
            ours, theirs = socketpair()
            theirs_to_close.enter_context(theirs)  # which ends the channel if nobody else has it
            ends = InheritedFds(
                theirs.fileno(), self._listeners[index].fileno(), self._board_file, file, self._papers_file
            )
            server = BatcherServer(
                self._batcher, TensorPool(file, shapes), lambda *message: self._answer(life, *message)
            )
            handlers = {
                ROW: self._and_post(server.take),
                FORGET: server.cancel,
                ASK: lambda asked: self._hear(life, asked),
            }
            await life.start(ends, ours, handlers, server)
        return life

    async def _keep(self, life: WorkerProcess) -> None:
        """One after another, until they are told to stop, or do not even begin any more."""
        failures = 0
        while True:
            code = await life.end()
            self._gone, life.counts = merged([self._gone, totals(life.counts)]), []
            if self._is_stopping:
                return
            log.error("an HTTP worker died", extra={"index": life.index, "code": code})
            self._metrics.http_worker_restarts.inc()
            failures = 0 if life.has_begun.result() else failures + 1
            if failures == MAX_FAILURES:
                raise WorkerLost(f"HTTP worker {life.index} ends before it has begun, again and again")
            if failures:
                await asyncio.sleep(PAUSE_SECONDS)
            life = self._lives[life.index] = await self._open_in_time(life.index)

    async def _open_in_time(self, index: int) -> WorkerProcess:
        """When the machine has what it takes, some time."""
        while True:
            try:
                return await self._open(index)
            except OSError:
                log.exception("an HTTP worker cannot be started")
                await asyncio.sleep(PAUSE_SECONDS)

    async def _look_on(self) -> None:
        """Whether they live, and how things stand."""
        looked_at = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._post()
            looked_at, before = time.monotonic(), looked_at
            for life in self._lives:
                if looked_at - before > LATE_SECONDS:  # they may have been stopped, too, as a container is: as a whole
                    life.heard_at = max(life.heard_at, looked_at)
                if time.monotonic() > life.heard_at + max(self._papers.settings.batch_timeout, MUTE_SECONDS):
                    log.error("an HTTP worker is stuck", extra={"index": life.index})
                    life.heard_at = math.inf
                    life.kill()

    def _and_post(self, handle: Callable[[bytes], None]) -> Callable[[bytes], None]:
        def handle_and_post(payload: bytes) -> None:
            handle(payload)
            self._post_soon()

        return handle_and_post

    def _answer(self, life: WorkerProcess, kind: int, payload: bytes) -> None:
        life.channel.send(kind, payload)
        self._post_soon()

    def _post_soon(self) -> None:
        """After what else happens in this turn of the loop: the batcher's takes of rows, above all."""
        if not self._is_posted:
            self._is_posted = True
            asyncio.get_running_loop().call_soon(self._post)

    def _post(self) -> None:
        self._is_posted = False
        self._board.write(self._batcher.load)

    def _hear(self, life: WorkerProcess, payload: bytes) -> None:
        (number,) = NUMBER.unpack_from(payload)
        questions: Mapping[bytes, Callable[[], Awaitable[Any]]] = {
            b"exposition": self.exposition,
            b"report": self._backend.report,
        }
        self._reply_later(life, number, questions.get(payload[NUMBER.size :]))

    def _reply_later(self, life: WorkerProcess, number: int, ask: Callable[[], Awaitable[Any]] | None) -> None:
        async def reply() -> None:
            is_answered, answer = False, b""
            try:
                answer = pickle.dumps(await ask()) if ask else b""
                is_answered = ask is not None
            except Exception:
                log.exception("question not answered", extra={"index": life.index})
            life.channel.send(REPLY, REPLY_OF.pack(number, is_answered) + answer)

        task = asyncio.create_task(reply())
        self._replies.add(task)  # the loop itself would let it go
        task.add_done_callback(self._replies.discard)
