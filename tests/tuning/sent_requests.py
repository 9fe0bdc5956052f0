"""A service process that only keeps the requests that it is sent."""

import asyncio
import os

from app.load.client_pool import Response


class SentRequests:
    """A service process and its clients, which answer each request at once and keep it."""

    pid = os.getpid()

    def __init__(self) -> None:
        self.sent, self.limits = list[bytes](), list[int]()

    @property
    def windows(self) -> int:
        return len(self.limits)

    @property
    def target(self) -> "SentRequests":
        return self

    def pool(self, limit: int) -> "SentRequests":
        self.limits.append(limit)
        return self

    def get(self, path: str) -> bytes:
        return path.encode()

    async def send(self, request: bytes) -> Response:
        self.sent.append(request)
        await asyncio.sleep(0)
        return Response(200, b"")

    def check(self) -> None:
        """Do nothing: the process runs."""

    def close(self) -> None:
        """Do nothing: there are no connections."""
