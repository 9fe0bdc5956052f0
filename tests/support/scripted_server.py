"""A server that sends scripted responses in pieces, on the event loop of the test. Knows no service."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from app.load.client_pool import Address, ClientPool

# The content of each request. The server finds the end of a request by it.
CONTENT = b"an image"

# In place of a response, the server closes the connection.
CLOSE = b""


def reply(body: bytes, status: int = 200, fields: bytes = b"") -> bytes:
    """Return the bytes of a response."""
    return b"HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n%s" % (status, fields, len(body), body)


class Script:
    """A server that sends scripted responses in pieces, one per request.

    It closes the connection after the last response, or in place of an empty one.
    """

    def __init__(self, *responses: bytes, piece: int = 10_000, is_held: bool = False) -> None:
        self.connections = 0
        self.received, self.release = asyncio.Event(), asyncio.Event()  # with `is_held`, responses wait for the second
        if not is_held:
            self.release.set()
        self._responses, self._piece = list(responses), piece

    @contextlib.asynccontextmanager
    async def client_pool(self, limit: int | None = None) -> AsyncIterator[ClientPool]:
        """Start the server, and lend a pool of its clients."""
        listener = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        address: Address = listener.sockets[0].getsockname()
        async with listener:
            with contextlib.closing(ClientPool(address, limit)) as pool:
                yield pool

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.closing(writer), contextlib.suppress(asyncio.IncompleteReadError):
            while self._responses:
                await reader.readuntil(CONTENT)
                response = self._responses.pop(0)
                self.received.set()
                await self.release.wait()
                if response == CLOSE:
                    return
                for start in range(0, len(response), self._piece):
                    writer.write(response[start : start + self._piece])
                    await writer.drain()
                    await asyncio.sleep(0)
