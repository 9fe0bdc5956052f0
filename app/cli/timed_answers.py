"""Answers to requests of `urllib`, with a deadline and a maximum size. Knows no service."""

import io
import socket
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPResponse
from typing import Any

# The most bytes of an answer. Those of swin-serve have a few MiB: thousands of classes, or a picture of an image as the
# network receives it.
MAX_BYTES = 64 * 2**20


class TooLong(HTTPException):
    """The content has more than `MAX_BYTES`."""


class _Received(io.RawIOBase):
    """The bytes that a socket receives until its timeout, counted from now. A timeout of a socket is for each read."""

    def __init__(self, source: socket.socket, raw: io.RawIOBase) -> None:
        timeout = source.gettimeout()
        self._source, self._raw = source, raw
        self._ends = None if timeout is None else time.monotonic() + timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        if self._ends is not None:
            left = self._ends - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._source.settimeout(left)
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_Received(sock, self.fp.detach()))


class _Timed(urllib.request.AbstractHTTPHandler):
    def do_open(self, http_class: Callable[..., HTTPConnection], req: urllib.request.Request, **options: Any) -> Any:
        def connection_to(host: str, **given: Any) -> HTTPConnection:
            connection = http_class(host, **given)
            connection.response_class = _Response
            return connection

        return super().do_open(connection_to, req, **options)


class TimedHTTP(_Timed, urllib.request.HTTPHandler):
    """Handler of `http`. Header section and content arrive within the timeout, or `TimeoutError` is raised."""


class TimedHTTPS(_Timed, urllib.request.HTTPSHandler):
    """Handler of `https`, with the same deadline."""


def content_of(answer: Any) -> bytes:
    """Return the content of an answer, which is a response or the `HTTPError` of one.

    Raises:
        TooLong: it has more than `MAX_BYTES`.
        HTTPException: it is not complete.
        OSError: it did not arrive in time, or the connection failed.
    """
    if answer.length is not None and answer.length > MAX_BYTES:
        raise TooLong
    # `read` finds content that ends early only without a maximum.
    content: bytes = answer.read() if answer.length is not None else answer.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise TooLong
    return content
