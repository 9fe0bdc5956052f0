"""The port: a server of grpc.aio listens on it, and another one if that server ends by itself. Knows no RPC.

An error in the loop that accepts calls ends the server. grpc neither calls the application nor starts again.
`app/grpc/accepting.py` avoids the one error that is known: a name of an RPC that is not UTF-8.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from app.errors import StartError
from app.validation_messages import shorten

log = logging.getLogger("swin.grpc")

# Coroutines of grpc by the names that their tasks show: the loop that accepts calls, and the shutdown after its end.
ACCEPTING, SHUTDOWN = "AioServer._server_main_loop", "AioServer.shutdown"

# Shortest time in seconds between the starts of two servers. A client can end each of them with one call.
RESTART_SECONDS = 0.1

# Seconds until another attempt to listen if one has failed.
RETRY_SECONDS = 1


class Port:
    """A port on which grpc serves. `number` is that of the port, also if the address had 0.

    Args:
        new_server: returns a server with options and handlers, without an address.
        report: called with False if no server can listen on the port, and with True if one can again.
        grace: seconds for the calls of a server that has ended by itself.
    """

    number: int

    def __init__(self, new_server: Callable[[], Any], report: Callable[[bool], None], grace: float) -> None:
        self._new_server, self._report, self._grace = new_server, report, grace
        self._address = ""
        self._servers = set[Any]()  # the one that listens, and those whose last calls have not ended
        self._tasks = set[asyncio.Task[None]]()
        self._started_at, self._is_closing = 0.0, False

    async def open(self, address: str) -> None:
        """Listen on an address, such as `127.0.0.1:8001`, until `close`.

        Raises:
            StartError: the address cannot be bound.
        """
        await self._listen(self._new_server(), address)

    async def _listen(self, server: Any, address: str) -> None:
        before = asyncio.all_tasks()
        try:
            self.number = server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartError(f"cannot listen on {address} for gRPC; choose another --grpc-port") from error
        self._servers.add(server)
        self._address = f"{address.rpartition(':')[0]}:{self.number}"
        self._started_at = asyncio.get_running_loop().time()
        await server.start()
        for task in _named(ACCEPTING) - before:
            task.add_done_callback(partial(self._on_end, server))

    async def close(self, grace: float | None) -> None:
        """End all servers. Their calls have `grace` seconds to end, and are cancelled at once if it is None."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(server.stop(grace) for server in self._servers))

    def _on_end(self, server: Any, accepting: "asyncio.Task[None]") -> None:
        if self._is_closing or accepting.cancelled():
            return
        for task in _named(SHUTDOWN):  # it raises the error again, and no other component awaits it
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._spawn(self._retire(server))
        self._spawn(self._replace(shorten(str(accepting.exception()))))

    async def _retire(self, server: Any) -> None:
        """Wait for the calls of a server that does not listen any more."""
        await server.stop(self._grace)
        self._servers.discard(server)

    async def _replace(self, reason: str) -> None:
        """Listen with another server."""
        await asyncio.sleep(self._started_at + RESTART_SECONDS - asyncio.get_running_loop().time())
        server, is_listening = self._new_server(), False  # grpc frees no server that has not started
        while not is_listening:
            try:
                await self._listen(server, self._address)
                is_listening = True
            except StartError as error:
                log.error("gRPC port lost", extra={"error": str(error), "reason": reason})  # noqa: TRY400 (a sentence)
                self._report(False)
                await asyncio.sleep(RETRY_SECONDS)
        self._report(True)
        log.warning("gRPC server restarted", extra={"reason": reason})

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _named(name: str) -> set["asyncio.Task[Any]"]:
    """Return the tasks that run a coroutine function of this name."""
    return {task for task in asyncio.all_tasks() if getattr(task.get_coro(), "__qualname__", "") == name}
