"""A relay between one client and the service, which is slow, damages a byte, or stops. Knows no protocol."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from app.load.client_pool import Address

# Bytes that a relay reads at once.
READ_BYTES = 2**16


@dataclass
class Relay:
    """Forwards one connection. A second connection is refused.

    Args:
        service: the address of the service.
        limit: the number of bytes from the client to forward; None for all.
        piece: the number of bytes from the client to forward at once.
        pause: the seconds to wait before each piece.
        damaged: the position of a byte from the client to invert; None for none.
    """

    service: Address
    limit: int | None = None
    piece: int = READ_BYTES
    pause: float = 0
    damaged: int | None = None
    address: str = ""
    # Set when the bytes up to the limit have been forwarded.
    is_at_limit: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Relay"]:
        """Listen on `address` inside the block. At its end, the connection is cut."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.address = f"{host}:{port}"
        try:
            yield self
        finally:
            self._server.close()
            self.cut()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset the connections to the client and to the service."""
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        if not self._server.is_serving():
            writer.transport.abort()
            return
        self._server.close()
        service_reader, service_writer = await asyncio.open_connection(*self.service)
        self._writers.append(service_writer)
        self._tasks.append(asyncio.create_task(self._forward(reader, service_writer)))
        self._tasks.append(asyncio.create_task(self._return(service_reader, writer)))

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        position = 0
        with contextlib.suppress(OSError):
            while data := await reader.read(self.piece):
                await asyncio.sleep(self.pause)
                changed = bytearray(data)
                if self.damaged is not None and position <= self.damaged < position + len(data):
                    changed[self.damaged - position] ^= 0xFF
                if self.limit is not None:
                    changed = changed[: self.limit - position]
                writer.write(bytes(changed))
                await writer.drain()
                position += len(data)
                if self.limit is not None and position >= self.limit:
                    self.is_at_limit.set()
                    return
        writer.transport.abort()

    @staticmethod
    async def _return(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                writer.write(data)
                await writer.drain()
        writer.close()
