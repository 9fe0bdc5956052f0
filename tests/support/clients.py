"""Clients of an application, without sockets."""

import asyncio
from collections.abc import MutableMapping
from typing import Any

import httpx
from fastapi import FastAPI

from app.http.client_state import ClientState


def caller_of(app: FastAPI) -> httpx.AsyncClient:
    """Return a client of the application, without sockets."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://swin")


class Visitor:
    """A client that sends an image, or the first pieces of one, to `POST /classify`.

    The client disconnects when `leave` is called.
    """

    def __init__(self, app: FastAPI, *pieces: bytes, is_whole: bool = True) -> None:
        self.sent = list[MutableMapping[str, Any]]()  # messages of the application
        self._app = app
        self._pieces, self._is_whole = list(pieces), is_whole
        self._leaves, self._caller = asyncio.Event(), ClientState()
        self.waits = asyncio.Event()  # set when all pieces have been sent

    async def ask(self) -> None:
        """Send the request, and return when the application has finished it."""
        scope = {"type": "http", "method": "POST", "path": "/classify", "query_string": b"", "headers": []}
        state = {"client_state": self._caller}
        await self._app(scope | {"app": self._app, "state": state}, self._receive, self._send)

    def leave(self) -> None:
        """Disconnect."""
        self._leaves.set()
        self._caller.disconnect()

    async def _receive(self) -> dict[str, Any]:
        if self._pieces:
            piece = self._pieces.pop(0)
            has_more = bool(self._pieces) or not self._is_whole
            if not has_more:
                self.waits.set()
            return {"type": "http.request", "body": piece, "more_body": has_more}
        self.waits.set()
        await self._leaves.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: MutableMapping[str, Any]) -> None:
        self.sent.append(message)
