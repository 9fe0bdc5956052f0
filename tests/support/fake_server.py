"""An HTTP server with scripted answers: it can hold, drop and drip them. Knows nothing about swin-serve."""

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from tests.support.waiting import HANG_SECONDS

# Seconds between two bytes of an answer that drips.
DRIP_SECONDS = 0.01


class Received(NamedTuple):
    """A request that has arrived."""

    method: str
    path: str  # with the query
    headers: dict[str, str]  # names in lower case
    content: bytes
    connection: tuple[str, int]  # the address of the client: its port tells connections apart


# Sends the answer to one request.
Script = Callable[["Handler"], None]


class FakeServer:
    """A server on a free port. Each request gets the next script; the last one serves all others."""

    def __init__(self, *scripts: Script) -> None:
        self.requests: list[Received] = []
        self._scripts, self._lock = list(scripts), threading.Lock()
        self._arrived = threading.Semaphore(0)
        self.stopping = threading.Event()
        self._server = Listener(("127.0.0.1", 0), Handler)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def take(self, received: Received) -> Script:
        """Record a request. Return its script."""
        with self._lock:
            self.requests.append(received)
            script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        self._arrived.release()
        return script

    def wait_for_request(self) -> None:
        """Wait until the next request has arrived."""
        assert self._arrived.acquire(timeout=HANG_SECONDS), "no request came"

    def stop(self) -> None:
        """Refuse connections, and end the scripts."""
        self.stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Listener(ThreadingHTTPServer):
    """A server that accepts many connections at once, each in a thread."""

    owner: FakeServer
    daemon_threads = True
    request_queue_size = 128  # connections above the default of 5 wait for seconds


class Handler(BaseHTTPRequestHandler):
    """One connection. `received` is its last request."""

    server: Listener
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # header section and content are two packets

    def do_GET(self) -> None:
        self._run()

    def do_POST(self) -> None:
        self._run()

    def log_message(self, *_: object) -> None:
        """Write nothing."""

    def _run(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.received = Received(self.command, self.path, headers, content, self.client_address)
        script = self.server.owner.take(self.received)
        with contextlib.suppress(OSError):  # the client has closed
            script(self)


def reply(status: int = 200, content: bytes | object = b"", **headers: str) -> Script:
    """Answer with this content: bytes, or an object as JSON.

    The header field Retry-After is named `Retry_After`. An empty value removes a field.
    """
    body = content if isinstance(content, bytes) else json.dumps(content).encode()

    def script(handler: Handler) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            if value:
                handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return script


def hang_up(handler: Handler) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


def break_off(handler: Handler) -> None:
    """Close the connection in the middle of the content."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"predictions"')
    handler.close_connection = True


def silence(handler: Handler) -> None:
    """Do not answer until the server stops."""
    handler.server.owner.stopping.wait()
    handler.close_connection = True


def announce(size: int) -> Script:
    """Send a header section with this length, and no content until the server stops."""

    def script(handler: Handler) -> None:
        handler.wfile.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
        silence(handler)

    return script


def drip_headers(handler: Handler) -> None:
    """Send a header section that never ends, byte by byte."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Padding: ")
    _drip(handler)


def drip_content(handler: Handler) -> None:
    """Send a content that does not end, byte by byte."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    _drip(handler)


def flood(handler: Handler) -> None:
    """Send a content of no announced length that does not end, as fast as the client reads it."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while not handler.server.owner.stopping.is_set():
        handler.wfile.write(b"x" * 2**20)


def _drip(handler: Handler) -> None:
    while not handler.server.owner.stopping.wait(DRIP_SECONDS):
        handler.wfile.write(b"x")


@contextlib.contextmanager
def fake_server(*scripts: Script) -> Iterator[FakeServer]:
    """Run a server within the block."""
    server = FakeServer(*scripts)
    try:
        yield server
    finally:
        server.stop()
