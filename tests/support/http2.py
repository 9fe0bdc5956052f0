"""A client of HTTP/2 that does what no library does, such as to read no response."""

import itertools
import socket
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Self

from tests.support.waiting import HANG_SECONDS

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Types of frames, their flags, and a setting (RFC 9113, sections 6 and 6.5.2).
DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
ACK, END_STREAM, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4

HEADER_BYTES, PING_BYTES = 9, 8

EMPTY: Mapping[str, str] = MappingProxyType({})


class Http2Client:
    """A connection for calls of gRPC whose responses are not read. Use it as a context manager.

    Args:
        address: host and port.
        window: bytes of each response that the server may send (RFC 9113, section 6.9.2).
    """

    def __init__(self, address: str, window: int = 65_535) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=HANG_SECONDS)
        self._streams = itertools.count(1, 2)
        try:
            self.send(PREFACE, frame(SETTINGS, payload=struct.pack(">HI", INITIAL_WINDOW_SIZE, window)))
            self.wait_for(SETTINGS)
            self.send(frame(SETTINGS, ACK))
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, *frames: bytes) -> None:
        """Send frames."""
        self._socket.sendall(b"".join(frames))

    def call(self, route: str, message: bytes = b"", metadata: Mapping[str, str] = EMPTY) -> None:
        """Start a call with one message. Surrogates in texts are bytes that are not UTF-8 (PEP 383)."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": route,
            ":authority": "swin",
            "te": "trailers",
            "content-type": "application/grpc",
            **metadata,
        }
        stream, data = next(self._streams), struct.pack(">BI", 0, len(message)) + message
        self.send(frame(HEADERS, END_HEADERS, stream, section(fields)), frame(DATA, END_STREAM, stream, data))

    def ping(self) -> None:
        """Return when the server has received all frames so far."""
        self.send(frame(PING, payload=bytes(PING_BYTES)))
        self.wait_for(PING, ACK)

    def wait_for(self, kind: int, flags: int = 0) -> None:
        """Drop frames up to the first one of a type with these flags."""
        found = None
        while found != (kind, flags):
            header = self._read(HEADER_BYTES)
            self._read(int.from_bytes(header[:3]))
            found = header[3], header[4]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            received = self._socket.recv(size - len(data))
            assert received, "the server has closed the connection"
            data += received
        return data


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """Return a frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + payload


def section(fields: Mapping[str, str]) -> bytes:
    """Return a header section of literal fields (RFC 7541, section 6.2.2)."""
    return b"".join(b"\0" + _string(name) + _string(value) for name, value in fields.items())


def _string(text: str) -> bytes:
    data = text.encode(errors="surrogateescape")
    return bytes([len(data)]) + data
